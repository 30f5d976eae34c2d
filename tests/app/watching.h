// The program as `minke watch`, and somebody who asks it.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <thread>

#include "app/small_run.h"

namespace minke {

// A connection to a port of this machine.
class Asker {
 public:
  explicit Asker(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const timeval patience{60, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~Asker() { ::close(socket_); }
  Asker(const Asker&) = delete;
  Asker& operator=(const Asker&) = delete;

  // False once nobody takes it.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  // Nothing more will be sent.
  void end() const { ::shutdown(socket_, SHUT_WR); }
  // To the end of the connection.
  std::string answer() const {
    std::string all;
    char block[1 << 14];
    for (ssize_t n = 0; (n = ::recv(socket_, block, sizeof block, 0)) > 0;) {
      all.append(block, static_cast<size_t>(n));
    }
    return all;
  }

 private:
  int socket_;
};

class Watching {
 public:
  explicit Watching(const std::vector<std::string>& runs) {
    std::vector<std::string> arguments = {"watch", "--port", "0"};
    arguments.insert(arguments.end(), runs.begin(), runs.end());
    const fs::path out = folder_ / "said";
    program_ = std::make_unique<Program>(arguments, "", out.string());
    for (int i = 0; i < 3000 && url_.empty(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const std::string said = fs::exists(out) ? read_file(out) : "";
      const size_t at = said.find("http://");
      if (at != std::string::npos && said.ends_with('\n')) {
        url_ = said.substr(at, said.find(' ', at) - at);
      }
    }
    const size_t colon = url_.rfind(':');
    if (colon == std::string::npos) {
      ADD_FAILURE() << "minke watch says nothing";
    } else {
      port_ = std::stoi(url_.substr(colon + 1));
    }
  }
  const std::string& url() const { return url_; }
  int port() const { return port_; }

  // The answer, its head and all.
  std::string ask(const std::string& request) const {
    const Asker asker(port_);
    asker.send(request);
    return asker.answer();
  }
  std::string get(const std::string& path) const {
    return ask("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
  }
  nlohmann::json data(const std::string& path) const {
    const std::string answer = get(path);
    EXPECT_THAT(answer, testing::StartsWith("HTTP/1.1 200"));
    return nlohmann::json::parse(answer.substr(answer.find("\r\n\r\n") + 4));
  }

 private:
  TemporaryFolder folder_;
  std::unique_ptr<Program> program_;
  std::string url_;
  int port_ = 0;
};

}  // namespace minke

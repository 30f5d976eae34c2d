#include "study/watch.h"

#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <mutex>

#include "base/error.h"
#include "study/pages.h"
#include "study/run_data.h"

namespace minke::study {
namespace {

// Of one request, which is a line and some headers.
constexpr size_t kMostBytes = 1 << 16;
constexpr std::chrono::seconds kMostTime{20};

// A connection that ends: httplib by itself reads for as long as somebody sends.
class Connection : public httplib::Stream {
 public:
  explicit Connection(int socket) : socket_(socket) {}
  ~Connection() override {
    ::shutdown(socket_, SHUT_RDWR);
    ::close(socket_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool is_readable() const override { return taken_ < kMostBytes && wait_for(POLLIN); }
  bool is_writable() const override { return wait_for(POLLOUT); }
  ssize_t read(char* to, size_t size) override {
    if (!is_readable()) return -1;
    const ssize_t n = ::recv(socket_, to, std::min(size, kMostBytes - taken_), 0);
    if (n > 0) taken_ += static_cast<size_t>(n);
    return n;
  }
  ssize_t write(const char* from, size_t size) override {
    return is_writable() ? ::send(socket_, from, size, MSG_NOSIGNAL) : -1;
  }
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  bool wait_for(int16_t what) const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end_ - std::chrono::steady_clock::now());
    pollfd asked{socket_, what, 0};
    return left.count() > 0 && ::poll(&asked, 1, static_cast<int>(left.count())) == 1;
  }

  int socket_;
  size_t taken_ = 0;
  std::chrono::steady_clock::time_point end_ = std::chrono::steady_clock::now() + kMostTime;
};

class Server : public httplib::Server {
 private:
  bool process_and_close_socket(socket_t socket) override {
    bool closed = false;
    try {
      Connection connection(socket);
      // Packing an answer would take the processor from the run that is watched.
      return process_request(connection, true, closed, [](httplib::Request& request) {
        request.headers.erase("Accept-Encoding");
      });
    } catch (const std::exception&) {
      return false;
    }
  }
};

// A page of another site may reach this address under a name of its own (DNS rebinding), but then
// it asks for that name.
bool is_local(std::string host) {
  if (host.empty()) return true;
  const size_t colon = host.rfind(':');
  if (colon != std::string::npos && host.back() != ']') host.resize(colon);
  return host == "localhost" || host == "127.0.0.1" || host == "[::1]";
}

class Watched {
 public:
  Watched(const fs::path& folder, std::string name) : name_(std::move(name)), data_(folder) {}
  const std::string& name() const { return name_; }

  // What is new for somebody who has `version`; empty where nothing is.
  std::string news(const std::string& version) {
    const std::scoped_lock lock(mutex_);
    nlohmann::json out;
    try {
      data_.refresh();
      if (data_.version() == version) return "";
      out = data_.json();
      out["version"] = data_.version();
    } catch (const Error& error) {
      out = {{"fault", error.what()}};
    }
    return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }

 private:
  std::string name_;
  std::mutex mutex_;
  RunData data_;
};

std::vector<std::unique_ptr<Watched>> find_runs(const std::vector<fs::path>& folders) {
  std::vector<std::unique_ptr<Watched>> out;
  for (const fs::path& folder : folders) {
    if (!fs::exists(folder / "manifest.json") && !fs::exists(folder / "metrics.jsonl")) {
      fail("{}: holds no run: neither manifest.json nor metrics.jsonl is there", folder.string());
    }
    const std::string name = run_name(folder);
    const bool alone = std::ranges::count(folders, name, run_name) == 1;
    out.push_back(std::make_unique<Watched>(folder, alone ? name : folder.string()));
  }
  return out;
}

}  // namespace

void watch(const WatchOptions& options, const std::function<void(const std::string&)>& ready) {
  const auto runs = find_runs(options.runs);
  nlohmann::ordered_json names = nlohmann::ordered_json::array();
  for (const auto& run : runs) names.push_back(run->name());
  const std::string html = page("watch", names);

  Server server;
  // Not SO_REUSEPORT, httplib's own, with which two servers share a port.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_payload_max_length(kMostBytes);
  // Connections that say nothing wait here, each in a thread, until their time is up.
  server.new_task_queue = [] { return new httplib::ThreadPool(64); };
  server.set_default_headers(
      {{"Cache-Control", "no-store"},
       {"X-Content-Type-Options", "nosniff"},
       {"Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}});
  if (is_local(options.host)) {
    server.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& answer) {
      if (is_local(request.get_header_value("Host"))) {
        return httplib::Server::HandlerResponse::Unhandled;
      }
      answer.status = 403;
      answer.set_content("minke watch is asked for as localhost\n", "text/plain");
      return httplib::Server::HandlerResponse::Handled;
    });
  }
  server.set_exception_handler([](const httplib::Request&, httplib::Response& answer,
                                  const std::exception_ptr&) { answer.status = 500; });
  server.Get("/", [&](const httplib::Request&, httplib::Response& answer) {
    answer.set_content(html, "text/html; charset=utf-8");
  });
  server.Get("/data/([0-9]{1,9})", [&](const httplib::Request& request, httplib::Response& answer) {
    const std::string text = request.matches[1];
    size_t index = 0;
    std::from_chars(text.data(), text.data() + text.size(), index);
    if (index >= runs.size()) {
      answer.status = 404;
      return;
    }
    const std::string news = runs[index]->news(request.get_param_value("have"));
    if (news.empty()) {
      answer.status = 204;
    } else {
      answer.set_content(news, "application/json");
    }
  });

  errno = 0;
  const int port = options.port == 0 ? server.bind_to_any_port(options.host)
                   : server.bind_to_port(options.host, options.port) ? options.port
                                                                     : -1;
  if (port < 0) {
    fail("{}:{}: cannot be listened on ({}); choose another --port or --host", options.host,
         options.port, errno != 0 ? std::strerror(errno) : "no such address here");
  }
  ready(fmt::format(
      "http://{}:{}/",
      options.host.find(':') == std::string::npos ? options.host : "[" + options.host + "]", port));
  if (!server.listen_after_bind()) fail("{}:{}: listening failed", options.host, port);
}

}  // namespace minke::study

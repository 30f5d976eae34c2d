// A real browser, where one is installed: chromium without a window, driven over its own pipe (the
// DevTools protocol: JSON messages, each ended by a zero byte).
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "app/small_run.h"

namespace minke {

class Browser {
 public:
  // Its path; empty where none is installed.
  static std::string program() {
    for (const char* path : {"/usr/bin/chromium", "/usr/bin/google-chrome"}) {
      if (fs::exists(path)) return path;
    }
    return "";
  }

  Browser() {
    int in[2], out[2];
    EXPECT_EQ(::pipe2(in, O_CLOEXEC) | ::pipe2(out, O_CLOEXEC), 0);
    const std::string path = program(), profile = "--user-data-dir=" + folder_.path().string();
    child_ = ::fork();
    if (child_ == 0) {
      ::setpgid(0, 0);
      // Its end of the pipes is 3 and 4, which may be taken by the pipes themselves.
      const int from = ::fcntl(in[0], F_DUPFD, 10), to = ::fcntl(out[1], F_DUPFD, 10);
      const int nowhere = ::open("/dev/null", O_RDWR);
      ::dup2(nowhere, STDOUT_FILENO);
      ::dup2(nowhere, STDERR_FILENO);
      ::dup2(from, 3);
      ::dup2(to, 4);
      ::execl(path.c_str(), path.c_str(), "--headless=new", "--no-sandbox", "--disable-gpu",
              "--disable-dev-shm-usage", "--remote-debugging-pipe", "--window-size=1280,1600",
              profile.c_str(), "about:blank", nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    to_ = in[1];
    from_ = out[0];
    session_ = "";
    const auto page = call("Target.createTarget", {{"url", "about:blank"}});
    session_ =
        call("Target.attachToTarget", {{"targetId", page.value("targetId", "")}, {"flatten", true}})
            .value("sessionId", "");
    call("Runtime.enable");
    call("Log.enable");
    call("Page.enable");
  }
  ~Browser() {
    ::kill(-child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    ::close(to_);
    ::close(from_);
  }
  Browser(const Browser&) = delete;
  Browser& operator=(const Browser&) = delete;

  // The result of a command of the protocol.
  nlohmann::json call(const std::string& method,
                      nlohmann::json parameters = nlohmann::json::object()) {
    nlohmann::json message = {{"id", ++last_}, {"method", method}, {"params", parameters}};
    if (!session_.empty()) message["sessionId"] = session_;
    const std::string text = message.dump() + '\0';
    EXPECT_EQ(::write(to_, text.data(), text.size()), std::ssize(text));
    for (;;) {
      const nlohmann::json answer = next();
      if (answer.is_null()) return nlohmann::json::object();
      if (answer.value("id", 0) == last_) {
        EXPECT_FALSE(answer.contains("error")) << method << ": " << answer;
        return answer.value("result", nlohmann::json::object());
      }
      const std::string event = answer.value("method", "");
      if (event == "Runtime.exceptionThrown" || event == "Log.entryAdded") {
        complaints_.push_back(answer["params"].dump());
      }
    }
  }
  // What the script's last expression is; promises are waited for.
  nlohmann::json run(const std::string& script) {
    const auto result =
        call("Runtime.evaluate",
             {{"expression", script}, {"returnByValue", true}, {"awaitPromise", true}});
    EXPECT_FALSE(result.contains("exceptionDetails")) << script << '\n' << result.dump(1);
    return result.value("result", nlohmann::json::object()).value("value", nlohmann::json());
  }
  void open(const std::string& url) { call("Page.navigate", {{"url", url}}); }
  void wait_for(const std::string& condition) {
    for (int i = 0; i < 1200; ++i) {
      if (run("Boolean(" + condition + ")") == true) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ADD_FAILURE() << "not within a minute: " << condition;
  }
  void point_at(double x, double y) {
    call("Input.dispatchMouseEvent", {{"type", "mouseMoved"}, {"x", x}, {"y", y}});
  }
  // Exceptions of scripts and what the browser logged: what it refused to load, for one.
  const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  nlohmann::json next() {
    size_t end = 0;
    while ((end = read_.find('\0')) == std::string::npos) {
      pollfd asked{from_, POLLIN, 0};
      char block[1 << 14];
      const ssize_t n = ::poll(&asked, 1, 60'000) == 1 ? ::read(from_, block, sizeof block) : 0;
      if (n <= 0) {
        ADD_FAILURE() << "the browser says nothing";
        return nullptr;
      }
      read_.append(block, static_cast<size_t>(n));
    }
    auto message = nlohmann::json::parse(read_.substr(0, end));
    read_.erase(0, end + 1);
    return message;
  }

  TemporaryFolder folder_;
  pid_t child_ = 0;
  int to_ = -1, from_ = -1, last_ = 0;
  std::string session_, read_;
  std::vector<std::string> complaints_;
};

}  // namespace minke

#include "study/watch.h"

#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <mutex>

#include "base/clock.h"
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
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now());
    pollfd asked{socket_, what, 0};
    return left.count() > 0 && ::poll(&asked, 1, static_cast<int>(left.count())) == 1;
  }

  int socket_;
  size_t taken_ = 0;
  Clock::time_point end_ = Clock::now() + kMostTime;
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

bool is_run(const fs::path& folder) {
  return fs::exists(folder / "manifest.json") || fs::exists(folder / "metrics.jsonl");
}

class Watched {
 public:
  explicit Watched(fs::path folder) : folder_(std::move(folder)), data_(folder_) {}
  const fs::path& folder() const { return folder_; }

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
  fs::path folder_;
  std::mutex mutex_;
  RunData data_;
};

// Runs by number, in the order in which they were found.
class WatchedRuns {
 public:
  // Of runs, and of what holds some.
  explicit WatchedRuns(std::vector<fs::path> folders) : folders_(std::move(folders)) {
    for (const fs::path& folder : folders_) {
      const size_t before = runs_.size();
      find(folder);
      if (runs_.size() == before) {
        fail(
            "{}: holds no run: neither manifest.json nor metrics.jsonl is there, or in a folder "
            "within",
            folder.string());
      }
    }
  }

  // By their folders' own names, where these tell them apart; with those that are new.
  nlohmann::ordered_json names() {
    const std::scoped_lock lock(mutex_);
    for (const fs::path& folder : folders_) find(folder);
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const auto& run : runs_) {
      const std::string name = run_name(run->folder());
      const bool alone = std::ranges::count(runs_, name, [](const auto& other) {
                           return run_name(other->folder());
                         }) == 1;
      out.push_back(alone ? name : run->folder().string());
    }
    return out;
  }

  // Null where there is none.
  Watched* at(size_t number) {
    const std::scoped_lock lock(mutex_);
    return number < runs_.size() ? runs_[number].get() : nullptr;
  }

 private:
  void find(const fs::path& folder) {
    if (is_run(folder)) return add(folder);
    std::vector<fs::path> within;
    std::error_code ec;
    for (const auto& entry : fs::directory_iterator(folder, ec)) {
      if (is_run(entry.path())) within.push_back(entry.path());
    }
    std::ranges::sort(within);
    for (const fs::path& run : within) add(run);
  }
  void add(const fs::path& folder) {
    if (std::ranges::find(runs_, folder, &Watched::folder) != runs_.end()) return;
    runs_.push_back(std::make_unique<Watched>(folder));
  }

  std::vector<fs::path> folders_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Watched>> runs_;
};

void keep_within_bounds(Server& server, bool local_only) {
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
  if (local_only) {
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
}

void answer_with(Server& server, WatchedRuns& runs) {
  server.Get("/", [&](const httplib::Request&, httplib::Response& answer) {
    answer.set_content(page("watch", runs.names()), "text/html; charset=utf-8");
  });
  server.Get("/runs", [&](const httplib::Request&, httplib::Response& answer) {
    answer.set_content(runs.names().dump(), "application/json");
  });
  server.Get("/data/([0-9]{1,9})", [&](const httplib::Request& request, httplib::Response& answer) {
    const std::string text = request.matches[1];
    size_t number = 0;
    std::from_chars(text.data(), text.data() + text.size(), number);
    Watched* const run = runs.at(number);
    if (run == nullptr) {
      answer.status = 404;
      return;
    }
    const std::string news = run->news(request.get_param_value("have"));
    if (news.empty()) {
      answer.status = 204;
    } else {
      answer.set_content(news, "application/json");
    }
  });
}

}  // namespace

void watch(const WatchOptions& options,
           const std::function<void(const std::string& url, size_t runs)>& ready) {
  WatchedRuns runs(options.runs);
  Server server;
  keep_within_bounds(server, is_local(options.host));
  answer_with(server, runs);
  errno = 0;
  const int port = options.port == 0 ? server.bind_to_any_port(options.host)
                   : server.bind_to_port(options.host, options.port) ? options.port
                                                                     : -1;
  if (port < 0) {
    fail("{}:{}: cannot be listened on ({}); choose another --port or --host", options.host,
         options.port, errno != 0 ? std::strerror(errno) : "no such address here");
  }
  const bool is_ipv6 = options.host.find(':') != std::string::npos;
  ready(fmt::format("http://{}:{}/", is_ipv6 ? "[" + options.host + "]" : options.host, port),
        runs.names().size());
  if (!server.listen_after_bind()) fail("{}:{}: listening failed", options.host, port);
}

}  // namespace minke::study

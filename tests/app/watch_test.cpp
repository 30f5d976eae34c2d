// minke watch over HTTP: what it answers, and that nothing it is asked stops it.
#include "app/watching.h"

namespace minke {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;
using namespace std::string_literals;

TEST(Watch, AnswersWithThePageAndWithEachRunsData) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("one", {"--steps", "10"})));
  expect_success(run_program(runs.flags("two", {"--steps", "6", "--stop-at", "4"})));
  const Watching watching({runs.path("one"), runs.path("two")});
  const std::string page = watching.get("/");
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(page, HasSubstr("[\"one\",\"two\"]"));
  EXPECT_THAT(page, HasSubstr("Content-Security-Policy: default-src 'none'"));

  const json one = watching.data("/data/0"), two = watching.data("/data/1?have=");
  EXPECT_EQ(one["steps"].size(), 10);
  EXPECT_EQ(one["start"]["steps"], 10);
  EXPECT_FALSE(one["evals"].empty());
  EXPECT_EQ(one["routers"].size(), 10);
  EXPECT_FALSE(one["samples"].empty());
  EXPECT_EQ(two["steps"].size(), 4);
  EXPECT_THAT(watching.get("/data/0?have=" + one["version"].get<std::string>()),
              StartsWith("HTTP/1.1 204"));
  EXPECT_THAT(watching.get("/data/0?have=" + two["version"].get<std::string>()),
              StartsWith("HTTP/1.1 200"));
}

TEST(Watch, FollowsARunFromBeforeItsFirstStep) {
  const SmallRuns runs;
  fs::create_directories(runs.path("run"));
  runs.write("run/manifest.json", "{}");
  const Watching watching({runs.path("run")});
  const json before = watching.data("/data/0");
  EXPECT_TRUE(before["steps"].empty());
  fs::remove(runs.path("run/manifest.json"));
  expect_success(run_program(runs.flags("run", {"--steps", "6", "--stop-at", "3"})));
  const json half = watching.data("/data/0?have=" + before["version"].get<std::string>());
  EXPECT_EQ(half["steps"].size(), 3);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--no-report"}));
  EXPECT_EQ(watching.data("/data/0")["steps"].size(), 6);

  // What is wrong with a log is told, and passes.
  const std::string log = read_file(runs.path("run/metrics.jsonl"));
  runs.write("run/metrics.jsonl", log + "nonsense\n");
  EXPECT_THAT(watching.data("/data/0")["fault"].get<std::string>(), HasSubstr("metrics.jsonl"));
  fs::remove(runs.path("run/metrics.jsonl"));
  EXPECT_THAT(watching.data("/data/0")["fault"].get<std::string>(), HasSubstr("gone"));
  runs.write("run/metrics.jsonl", log);
  EXPECT_EQ(watching.data("/data/0")["steps"].size(), 6);
}

TEST(Watch, FindsTheRunsOfAFolderAlsoThoseThatBegin) {
  const SmallRuns runs;
  fs::create_directories(runs.path("all/no-run"));
  expect_success(run_program(runs.flags("all/two", {"--steps", "2"})));
  const Watching watching({runs.path("all")});
  EXPECT_EQ(watching.data("/runs"), json({"two"}));
  EXPECT_THAT(watching.get("/data/1"), StartsWith("HTTP/1.1 404"));
  expect_success(run_program(runs.flags("all/one", {"--steps", "3"})));
  EXPECT_EQ(watching.data("/runs"), json({"two", "one"}));
  EXPECT_EQ(watching.data("/data/0")["steps"].size(), 2);
  EXPECT_EQ(watching.data("/data/1")["steps"].size(), 3);
}

TEST(Watch, BadRequestsNeverStopIt) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "2"})));
  const Watching watching({runs.path("run")});
  for (const char* path : {"/data/1", "/data/999999999", "/data/99999999999999999999", "/data/-1",
                           "/data/", "/data/0/", "/../../etc/passwd", "/manifest.json", "/%00"}) {
    EXPECT_THAT(watching.get(path), StartsWith("HTTP/1.1 404")) << path;
  }
  const std::string line = "GET / HTTP/1.1\r\n", host = "Host: localhost\r\n";
  EXPECT_THAT(watching.ask(line + "Host: evil.example\r\n\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(watching.ask(line + "Host: evil.example:80\r\n\r\n"), StartsWith("HTTP/1.1 403"));
  const std::vector<std::string> bad = {
      "\r\n\r\n",
      "GET\r\n\r\n",
      "nonsense nonsense nonsense\r\n\r\n",
      std::string(100'000, 'x'),
      "GET /\0 HTTP/1.1\r\n\r\n"s,
      "GET /" + std::string(20'000, 'x') + " HTTP/1.1\r\n" + host + "\r\n",
      "GET /data/0?have=" + std::string(5'000, '%') + " HTTP/1.1\r\n" + host + "\r\n",
      line + host + "X: " + std::string(1 << 20, 'y') + "\r\n\r\n",
      line + host + "Range: bytes=9-1,,,-,0-\r\n\r\n",
      line + host + "Range: bytes=" + std::string(8'000, '0') + "-\r\n\r\n",
      line + host + "Accept-Encoding: br, gzip\r\n\r\n",
      "POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999\r\n\r\nx",
      "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\nx",
      "POST / HTTP/1.1\r\n" + host +
          "Content-Type: multipart/form-data; boundary=\r\n"
          "Content-Length: 4\r\n\r\n----",
      "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
      "PUT /data/0 HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nContent-Length: 1\r\n\r\n",
  };
  for (const std::string& request : bad) {
    const Asker asker(watching.port());
    asker.send(request);
    asker.end();
    asker.answer();
  }
  // One that never ends its headers is left when it has said enough.
  {
    const Asker asker(watching.port());
    asker.send(line);
    const std::string header = "X: " + std::string(1000, 'z') + "\r\n";
    int sent = 0;
    while (sent < 100'000 && asker.send(header)) ++sent;
    EXPECT_LT(sent, 100'000);
  }
  Rng rng(3);
  for (int i = 0; i < 300; ++i) {
    std::string request = line + host + "Range: bytes=0-10\r\nCookie: a=b\r\n\r\n";
    for (uint64_t n = rng.below(8) + 1; n > 0; --n) {
      request[rng.below(request.size())] = static_cast<char>(rng.below(256));
    }
    const Asker asker(watching.port());
    asker.send(request.substr(0, rng.below(request.size()) + 1));
    asker.end();
    asker.answer();
  }
  // Some that say nothing at all stay while others are answered.
  std::vector<std::unique_ptr<Asker>> silent;
  for (int i = 0; i < 20; ++i) silent.push_back(std::make_unique<Asker>(watching.port()));
  EXPECT_THAT(watching.get("/"), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(watching.data("/data/0")["steps"].size(), 2);
}

TEST(Watch, FaultsOfTheCommandAreNamed) {
  const SmallRuns runs;
  fs::create_directories(runs.path("empty"));
  expect_fault(run_program({"watch", runs.path("nowhere")}), "nowhere", "no run");
  expect_fault(run_program({"watch", runs.path("empty")}), "empty", "no run");
  expect_fault(run_program({"watch"}), "runs");
  runs.write("empty/manifest.json", "{}");
  expect_fault(run_program({"watch", runs.path("empty"), "--port", "65536"}), "--port");
  expect_fault(run_program({"watch", runs.path("empty"), "--host", "203.0.113.7"}), "203.0.113.7",
               "--host");
  const Watching watching({runs.path("empty")});
  const std::string port = std::to_string(watching.port());
  expect_fault(run_program({"watch", runs.path("empty"), "--port", port}), port, "in use",
               "--port");
}

}  // namespace
}  // namespace minke

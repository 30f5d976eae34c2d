// A model that is trained once for all tests of a suite, and copies of it to change.
#pragma once

#include "app/small_run.h"

namespace minke {

class SmallModel : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    trained = new SmallRuns;
    expect_success(run_program(trained->flags("run", {"--steps", "120"})));
  }
  static void TearDownTestSuite() { delete trained; }

  static const SmallRuns& runs() { return *trained; }
  static std::string run() { return trained->path("run"); }
  // A copy of the checkpoint of which a JSON file is edited.
  std::string edited(const char* file, const std::function<void(nlohmann::json&)>& edit) const {
    const fs::path copy = folder_ / "model";
    if (!fs::exists(copy)) fs::copy(fs::path(run()) / "checkpoint", copy);
    auto content = nlohmann::json::parse(read_file(copy / file));
    edit(content);
    write_file_atomic(copy / file, content.dump());
    return copy.string();
  }
  // Of a context so long that a text in it takes until the test ends it.
  std::string endless() const {
    return edited("config.json", [](auto& c) { c["max_position_embeddings"] = 1 << 20; });
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

 private:
  static inline SmallRuns* trained = nullptr;
  TemporaryFolder folder_;
};

// Until the file holds something; false when it does not for a long time.
inline bool appears(const fs::path& file) {
  for (int i = 0; i < 3000; ++i) {
    if (fs::exists(file) && fs::file_size(file) > 0) return true;
    ::usleep(10'000);
  }
  return false;
}

}  // namespace minke

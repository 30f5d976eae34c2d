#include "train/checkpoints.h"

#include <gmock/gmock.h>

#include <set>

#include "base/error.h"
#include "train/trained.h"

namespace minke::train {
namespace {

using testing::ElementsAre;
using When = Checkpoints::When;

class CheckpointsTest : public testing::Test {
 protected:
  Checkpoints make(int64_t keep_last, int64_t keep_every) {
    Options options;
    options.keep_last = keep_last;
    options.keep_every = keep_every;
    return {options, run_.path(), [this](const auto& written) { steps_.push_back(written.step); }};
  }
  void save(Checkpoints& checkpoints, int64_t step, When when = When::kNow, bool best = false) {
    const auto take = [this] {
      ++taken_;
      return trained_.snapshot();
    };
    checkpoints.save(step, when, take, best);
  }
  std::set<std::string> kept() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run_ / "checkpoints")) {
      names.insert(entry.path().filename().string().substr(5 + 7));  // step-0000000
    }
    return names;
  }
  std::string weights(const std::string& folder) const {
    return read_file(run_ / folder / "model.safetensors");
  }

  TemporaryFolder run_;
  Trained trained_{1};
  std::vector<int64_t> steps_;
  int taken_ = 0;
};

TEST_F(CheckpointsTest, EarlierOnesAreKeptAsAsked) {
  Checkpoints checkpoints = make(1, 4);
  EXPECT_EQ(checkpoints.step(), -1);
  for (const int64_t step : {2, 4, 6}) save(checkpoints, step);
  EXPECT_THAT(kept(), ElementsAre("04", "06"));
  for (const int64_t step : {8, 10}) save(checkpoints, step);
  EXPECT_THAT(kept(), ElementsAre("04", "08", "10"));
  // Those of a course that the run left do not count, and are not lost.
  checkpoints.found(4);
  for (const int64_t step : {5, 6}) save(checkpoints, step);
  EXPECT_THAT(kept(), ElementsAre("04", "05", "06", "08", "10"));
  save(checkpoints, 7);
  EXPECT_THAT(kept(), ElementsAre("04", "06", "07", "08", "10"));
  EXPECT_THAT(steps_, ElementsAre(2, 4, 6, 8, 10, 5, 6, 7));
}

TEST_F(CheckpointsTest, NoneIsKeptWhereNoneIsAskedFor) {
  Checkpoints checkpoints = make(0, 0);
  for (const int64_t step : {1, 2}) save(checkpoints, step);
  EXPECT_FALSE(fs::exists(run_ / "checkpoints"));
  EXPECT_FALSE(fs::exists(run_ / "best"));
}

TEST_F(CheckpointsTest, OneThatIsWrittenMeanwhileIsOfItsStep) {
  Checkpoints checkpoints = make(0, 0);
  save(checkpoints, 1);
  const std::string first = weights("checkpoint");
  fs::remove_all(run_ / "checkpoint");
  checkpoints.found(0);
  save(checkpoints, 1, When::kMeanwhile);
  EXPECT_GT(checkpoints.copy_bytes(), 0);
  EXPECT_THAT(steps_, ElementsAre(1));
  trained_.trainer.step();
  checkpoints.finish();
  EXPECT_THAT(steps_, ElementsAre(1, 1));
  EXPECT_EQ(checkpoints.copy_bytes(), 0);
  EXPECT_TRUE(weights("checkpoint") == first);
  save(checkpoints, 2);
  EXPECT_FALSE(weights("checkpoint") == first);
}

TEST_F(CheckpointsTest, AStepIsSavedOnceAndMayBeTheBest) {
  Checkpoints checkpoints = make(0, 0);
  save(checkpoints, 1, When::kMeanwhile);
  const std::string first = (save(checkpoints, 1), checkpoints.finish(), weights("checkpoint"));
  EXPECT_EQ(taken_, 1);
  EXPECT_FALSE(fs::exists(run_ / "best"));
  save(checkpoints, 1, When::kNow, true);
  EXPECT_EQ(taken_, 1);
  EXPECT_TRUE(weights("best") == first);
  trained_.trainer.step();
  save(checkpoints, 2);
  EXPECT_TRUE(weights("best") == first);
  trained_.trainer.step();
  save(checkpoints, 3, When::kMeanwhile, true);
  checkpoints.finish();
  EXPECT_TRUE(weights("best") == weights("checkpoint"));
}

TEST_F(CheckpointsTest, OneThatCannotBeWrittenIsSaidByWhoAsksNext) {
  Checkpoints checkpoints = make(0, 0);
  fs::remove_all(run_.path());
  write_file_atomic(run_.path(), "a file");
  save(checkpoints, 1, When::kMeanwhile);
  EXPECT_THROW(save(checkpoints, 2), std::exception);
  EXPECT_TRUE(steps_.empty());
}

}  // namespace
}  // namespace minke::train

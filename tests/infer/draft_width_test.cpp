// The width that pays, against machines and texts that are made up.
#include "infer/draft_width.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace minke::infer {
namespace {

struct World {
  double draft;     // seconds of a drafted token; a plain step takes one
  double row;       // of a verified row besides the first
  double accepted;  // the chance of a draft whose predecessors stood
  double extra = 0;

  double seconds(int64_t width) const { return 1 + static_cast<double>(width) * (draft + row); }
  double tokens(int64_t width) const {
    double out = 1, all = 1;
    for (int64_t i = 0; i < width; ++i) out += all *= accepted;
    return out;
  }
  double best_rate() const {
    double best = 0;
    for (int64_t w = 0; w <= DraftWidth::kMost; ++w) best = std::max(best, tokens(w) / seconds(w));
    return best;
  }
};

struct Outcome {
  double seconds = 0, tokens = 0;
};

// Writes `count` tokens. noise: of a step's time, up to so much more.
Outcome write(DraftWidth& width, const World& world, int64_t count, double noise, Rng& rng) {
  Outcome out;
  bool behind = true;
  while (out.tokens < static_cast<double>(count)) {
    const int64_t w = width.next(DraftWidth::kMost, behind ? world.extra : 0);
    if (w > 0 && behind) {
      width.record_extra(world.extra);
      out.seconds += world.extra;
    }
    behind = w == 0;
    int64_t stood = 0;
    while (stood < w && rng.uniform() < world.accepted) ++stood;
    const double seconds = world.seconds(w) * (1 + noise * rng.uniform());
    width.record(w, stood, seconds);
    out.seconds += seconds;
    out.tokens += static_cast<double>(stood + 1);
  }
  return out;
}

// Whatever drafts cost and whether they stand, they never cost more than 3 % of plain decoding's
// time: of texts that are long enough for the step that is risked at the start. (A draft that takes
// longer than the whole trunk is none.)
TEST(DraftWidth, NeverLosesMoreThanThreePercent) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    Rng rng(seed);
    for (const double draft : {0.05, 0.3, 1.0}) {
      for (const double row : {0.0, 0.2, 1.0}) {
        for (const double accepted : {0.0, 0.1, 0.5}) {
          for (const int64_t count : {150, 1000, 5000}) {
            DraftWidth width;
            const Outcome out = write(width, {draft, row, accepted, 1}, count, 0, rng);
            EXPECT_LE(out.seconds, 1.03 * out.tokens)
                << draft << " " << row << " " << accepted << " " << count;
          }
        }
      }
    }
  }
}

TEST(DraftWidth, FindsWhatPays) {
  Rng rng(3);
  for (const World& world : {World{0.05, 0.02, 0.9}, World{0.1, 0.1, 0.85}, World{0.3, 0.1, 0.75},
                             World{0.02, 0.3, 0.6}}) {
    DraftWidth width;
    write(width, world, 300, 0.1, rng);  // learns
    const Outcome out = write(width, world, 4000, 0, rng);
    EXPECT_GE(out.tokens / out.seconds, 0.95 * world.best_rate())
        << world.draft << " " << world.row << " " << world.accepted;
    EXPECT_TRUE(width.pays());
  }
}

// A text that turns: drafts that stood stand no more, and do again.
TEST(DraftWidth, FollowsTheText) {
  Rng rng(4);
  DraftWidth width;
  const World good{0.1, 0.1, 0.9}, bad{0.1, 0.1, 0.02};
  for (int turn = 0; turn < 6; ++turn) {
    const Outcome out = write(width, turn % 2 == 0 ? good : bad, 600, 0.1, rng);
    // Plain decoding's steps take 1 to 1.1 seconds.
    EXPECT_GT(out.tokens / out.seconds, turn % 2 == 0 ? 1.3 : 1 / 1.1 / 1.03) << turn;
  }
}

TEST(DraftWidth, KeepsWithinWhatIsLeft) {
  Rng rng(5);
  DraftWidth width;
  write(width, {0.05, 0.02, 0.95}, 500, 0, rng);
  EXPECT_GT(width.next(DraftWidth::kMost, 0), 2);
  for (const int64_t most : {0, 1, 2}) EXPECT_LE(width.next(most, 0), most);
}

}  // namespace
}  // namespace minke::infer

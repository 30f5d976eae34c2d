// How many tokens to draft: the width that gives the most tokens a second, by what drafts of it
// have taken and how many stood.
//
// What a width gives is known only by trying it, so trials have a budget: all that they lose, and
// all that a width loses which has stopped to pay, stays below kLoss of the time, and a step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace minke::infer {

class DraftWidth {
 public:
  static constexpr int64_t kMost = 8;
  static constexpr double kLoss = 0.02;

  // The width of the next step, at most `most`. extra: seconds that drafting takes once before it.
  int64_t next(int64_t most, double extra) const;
  // A step that drafted `width` tokens, of which the first `accepted` stood: it gave accepted + 1.
  void record(int64_t width, int64_t accepted, double seconds);
  // What drafting took before a step.
  void record_extra(double seconds);

  bool pays() const { return best(kMost) > 0; }

 private:
  // A mean that forgets.
  struct Mean {
    double sum = 0, weight = 0;
    double value() const { return sum / weight; }
    void add(double x, double keep) {
      sum = keep * sum + x;
      weight = keep * weight + 1;
    }
  };
  bool tried(int64_t width) const { return seconds_[static_cast<size_t>(width)].weight > 0; }
  double tokens(int64_t width) const;   // that a step gives, as far as is known
  double seconds(int64_t width) const;  // that it takes, or may take
  double rate(int64_t width) const { return tokens(width) / seconds(width); }
  int64_t best(int64_t most) const;  // of the widths that have been tried
  bool affords(double loss, double lost, double share) const;

  std::array<Mean, kMost + 1> seconds_;
  std::array<Mean, kMost> accepted_;       // of drafts whose predecessors stood
  std::array<int64_t, kMost + 1> last_{};  // the step that tried a width last
  int64_t steps_ = 0;
  // Seconds, forgotten as the means are: of all steps, lost against plain decoding, and lost by
  // trials against the best width.
  double time_ = 0, lost_ = 0, lost_by_trials_ = 0;
};

}  // namespace minke::infer

#include "infer/draft_width.h"

#include <algorithm>

#include "base/error.h"

namespace minke::infer {
namespace {

constexpr int64_t kPlainFirst = 3;      // steps that measure plain decoding
constexpr double kKeepSeconds = 0.9;    // a mean over some 10 steps of a width,
constexpr double kKeepAccepted = 0.97;  // 30 drafts,
constexpr double kKeepLosses = 0.998;   // and 500 steps
constexpr double kTrials = DraftWidth::kLoss / 2;

}  // namespace

double DraftWidth::tokens(int64_t width) const {
  double out = 1, all = 1;
  for (int64_t i = 0; i < width; ++i) {
    const Mean& accepted = accepted_[static_cast<size_t>(i)];
    // As if one of two had stood before: a few drafts are no proof.
    all *= (accepted.sum + 1) / (accepted.weight + 2);
    out += all;
  }
  return out;
}

double DraftWidth::seconds(int64_t width) const {
  if (tried(width)) return seconds_[static_cast<size_t>(width)].value();
  int64_t below = width - 1;
  while (!tried(below)) --below;
  int64_t lower = below - 1;
  while (lower >= 0 && !tried(lower)) --lower;
  const double known = seconds(below);
  // As the widths below it grew, or as if a draft took half a step.
  const double each =
      lower < 0 ? known / 2
                : std::max(0.0, known - seconds(lower)) / static_cast<double>(below - lower);
  return known + each * static_cast<double>(width - below);
}

int64_t DraftWidth::best(int64_t most) const {
  int64_t out = 0;
  for (int64_t width = 1; width <= most; ++width) {
    if (tried(width) && rate(width) > rate(out)) out = width;
  }
  return out;
}

bool DraftWidth::affords(double loss, double lost, double share) const {
  return lost + loss <= share * time_ + seconds(0);
}

int64_t DraftWidth::next(int64_t most, double extra) const {
  MINKE_CHECK(most >= 0 && most <= kMost);
  if (steps_ < kPlainFirst) return 0;
  const int64_t now = affords(extra, lost_, kLoss) ? best(most) : 0;
  int64_t trial = -1;
  for (const int64_t width : {now + 1, now - 1, now + 2, int64_t{0}}) {
    if (width < 0 || width > most || width == now) continue;
    if (trial < 0 || last_[static_cast<size_t>(width)] < last_[static_cast<size_t>(trial)]) {
      trial = width;
    }
  }
  if (trial < 0) return now;
  const double loss = seconds(trial) + (now == 0 ? extra : 0) - tokens(trial) / rate(now);
  const bool within = affords(loss, lost_by_trials_, kTrials) && affords(loss, lost_, kLoss);
  return within ? trial : now;
}

void DraftWidth::record(int64_t width, int64_t accepted, double seconds_taken) {
  MINKE_CHECK(accepted >= 0 && accepted <= width && width <= kMost);
  const auto w = static_cast<size_t>(width);
  // A step that was held up says little about its width.
  const double usual = tried(width) ? std::min(seconds_taken, 2 * seconds(width)) : seconds_taken;
  time_ = kKeepLosses * time_ + usual;
  lost_ *= kKeepLosses;
  lost_by_trials_ *= kKeepLosses;
  const auto given = static_cast<double>(accepted + 1);
  if (tried(0)) {
    const int64_t usually = best(kMost);
    lost_ = std::max(0.0, lost_ + usual - given * seconds(0));
    if (width != usually) {
      lost_by_trials_ = std::max(0.0, lost_by_trials_ + usual - given / rate(usually));
    }
  }
  seconds_[w].add(usual, kKeepSeconds);
  for (int64_t i = 0; i < std::min(width, accepted + 1); ++i) {
    accepted_[static_cast<size_t>(i)].add(i < accepted ? 1 : 0, kKeepAccepted);
  }
  last_[w] = ++steps_;
}

void DraftWidth::record_extra(double seconds_taken) {
  time_ += seconds_taken;
  lost_ += seconds_taken;
  lost_by_trials_ += seconds_taken;
}

}  // namespace minke::infer

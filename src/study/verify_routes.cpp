#include "study/verify_routes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace minke::study {
namespace {

constexpr double kFarthest = std::numeric_limits<double>::infinity();

// The choice of one token, to be explained.
class TokenChoice {
 public:
  TokenChoice(std::span<const int32_t> experts, std::span<const double> scores,
              std::span<const double> bias, const ref::Routing& how)
      : compared_(scores.begin(), scores.end()), chosen_(scores.size()) {
    const bool noaux = how.method == ref::TopkMethod::kNoauxTc;
    if (noaux && !bias.empty()) {
      for (size_t e = 0; e < compared_.size(); ++e) compared_[e] += bias[e];
    }
    for (const int32_t e : experts) {
      chosen_[e] = true;
      lowest_ = std::min(lowest_, compared_[e]);
    }
    const bool grouped = how.method != ref::TopkMethod::kGreedy && how.groups > 1;
    groups_.resize(grouped ? how.groups : 1);
    kept_ = grouped ? how.chosen_groups : 1;
    const auto size = static_cast<int64_t>(compared_.size() / groups_.size());
    const bool two = noaux && size > 1;
    slack_ = two ? 4 : 2;
    for (size_t g = 0; g < groups_.size(); ++g) {
      Group& group = groups_[g];
      std::vector<double> best;
      for (int64_t e = static_cast<int64_t>(g) * size; e < static_cast<int64_t>(g + 1) * size;
           ++e) {
        best.push_back(compared_[e]);
        if (chosen_[e]) group.touched = true;
        if (!chosen_[e]) group.passed_over = std::max(group.passed_over, compared_[e]);
      }
      std::ranges::sort(best, std::greater<>());
      group.score = two ? best[0] + best[1] : best[0];
    }
  }

  // Whether scores that are off by at most `error` could have led to it.
  bool explained_by(double error) const {
    // Groups that were kept: those with a chosen expert, and beside them any whose other experts
    // may all have lost. Of these the best are the likeliest.
    std::vector<double> inside, outside, candidates;
    for (const Group& group : groups_) {
      const bool may_be_kept = group.passed_over - lowest_ <= 2 * error;
      if (group.touched && !may_be_kept) return false;
      (group.touched ? inside : may_be_kept ? candidates : outside).push_back(group.score);
    }
    const int64_t room = kept_ - std::ssize(inside);
    if (room < 0 || room > std::ssize(candidates)) return false;
    std::ranges::sort(candidates, std::greater<>());
    inside.insert(inside.end(), candidates.begin(), candidates.begin() + room);
    outside.insert(outside.end(), candidates.begin() + room, candidates.end());
    if (outside.empty()) return true;
    return *std::ranges::max_element(outside) - *std::ranges::min_element(inside) <= slack_ * error;
  }

  double smallest_error() const {
    if (explained_by(0)) return 0;
    const auto [low_score, high_score] = std::ranges::minmax(compared_);
    double low = 0, high = high_score - low_score;  // with which all scores may be equal
    if (!explained_by(high)) return kFarthest;
    constexpr int kHalvings = 60;
    for (int i = 0; i < kHalvings; ++i) {
      const double middle = (low + high) / 2;
      (explained_by(middle) ? high : low) = middle;
    }
    return high;
  }

 private:
  struct Group {
    double score = 0;
    double passed_over = -kFarthest;  // the best that was not chosen
    bool touched = false;             // one was chosen
  };

  std::vector<double> compared_;
  std::vector<bool> chosen_;
  double lowest_ = kFarthest;  // of the chosen
  double slack_ = 2;
  int64_t kept_ = 1;
  std::vector<Group> groups_;
};

}  // namespace

double smallest_score_error(std::span<const int32_t> experts, std::span<const double> scores,
                            std::span<const double> bias, const ref::Routing& how) {
  return TokenChoice(experts, scores, bias, how).smallest_error();
}

}  // namespace minke::study

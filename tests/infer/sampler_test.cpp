#include "infer/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace minke::infer {
namespace {

std::vector<float> random_logits(int64_t count, uint64_t key) {
  Rng rng(key);
  std::vector<float> logits;
  for (int64_t i = 0; i < count; ++i) logits.push_back(static_cast<float>(2 * rng.normal()));
  return logits;
}

// The definition, slowly: probabilities by id, 0 for what is cut.
std::vector<double> distribution(std::vector<float> logits, int64_t vocabulary, const Sampling& s) {
  logits.resize(static_cast<size_t>(vocabulary));
  const double most = *std::ranges::max_element(logits);
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp((double{logit} - most) / s.temperature));
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return p[a] > p[b]; });
  const size_t k = s.top_k > 0 ? std::min(p.size(), static_cast<size_t>(s.top_k)) : p.size();
  double of_k = 0, reached = 0;
  for (size_t i = 0; i < k; ++i) of_k += p[order[i]];
  std::vector<double> out(p.size());
  for (size_t i = 0; i < k; ++i) {
    const bool in_top_p = s.top_p == 1 || i == 0 || reached < s.top_p * of_k;
    reached += p[order[i]];
    if (in_top_p && p[order[i]] >= s.min_p) out[order[i]] = p[order[i]];
  }
  const double total = std::accumulate(out.begin(), out.end(), 0.0);
  for (double& x : out) x /= total;
  return out;
}

void expect_distribution(const std::vector<float>& logits, int64_t vocabulary, const Sampling& s) {
  Sampler sampler(s, vocabulary);
  const std::vector<double> expected = distribution(logits, vocabulary, s);
  std::vector<double> got(expected.size());
  for (const auto& [id, p] : sampler.candidates(logits)) got[static_cast<size_t>(id)] = p;
  for (size_t id = 0; id < expected.size(); ++id) {
    // Both divide by a sum of at most `vocabulary` positive numbers: relative error of a sum of n
    // is at most n u in FP64, and exp and the divisions add a few more.
    const double bound = 0x1p-52 * (static_cast<double>(vocabulary) + 8) * expected[id];
    EXPECT_NEAR(got[id], expected[id], bound) << "id " << id;
    EXPECT_EQ(got[id] > 0, expected[id] > 0) << "id " << id;
  }
}

// Padding ids, beyond the vocabulary or in a hole of it, are never taken, whatever their logits.
TEST(Sampler, IdsThatAreNoTokensAreNeverTaken) {
  std::vector<float> logits = random_logits(12, 4);
  const std::vector<int32_t> holes = {0, 5, 6};
  for (const size_t padding : {0, 5, 6, 10, 11}) logits[padding] = 100;
  logits[6] = std::numeric_limits<float>::quiet_NaN();
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature, .seed = 3}, 10, holes);
    double total = 0;
    for (const auto& [id, p] : sampler.candidates(logits)) {
      EXPECT_TRUE(id != 0 && id != 5 && id != 6 && id < 10) << id;
      total += p;
    }
    EXPECT_NEAR(total, 1, 1e-12);
  }
}

TEST(Sampler, DistributionIsItsDefinition) {
  const int64_t vocabulary = 211;
  for (uint64_t key = 0; key < 4; ++key) {
    const std::vector<float> logits = random_logits(vocabulary + 13, key);
    for (const double temperature : {0.1, 1.0, 1.7}) {
      for (const int64_t top_k : {0, 1, 7, 211, 5000}) {
        for (const double top_p : {0.001, 0.3, 0.9, 0.9999, 1.0}) {
          for (const double min_p : {0.0, 0.05, 1.0}) {
            expect_distribution(logits, vocabulary, {temperature, top_k, top_p, min_p, 0});
          }
        }
      }
    }
  }
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  Sampler sampler({0, 0, 1, 0, 0}, 5);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2, 3, 3}, 9), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{0, 0, 0, 0, 0}, 9), 0);
  EXPECT_EQ(sampler.sample(std::vector<float>{-9, -8, -9, -7, -7}, 9), 3);
}

TEST(Sampler, TopKOfEqualsKeepsTheLowest) {
  Sampler sampler({1, 2, 1, 0, 0}, 5);
  const auto& kept = sampler.candidates(std::vector<float>{1, 4, 4, 4, 0});
  ASSERT_EQ(kept.size(), 2);
  EXPECT_EQ(kept[0].id, 1);
  EXPECT_EQ(kept[1].id, 2);
}

TEST(Sampler, PaddingIsNeverSampled) {
  std::vector<float> logits = {0, 1, 0.5F, 100, 1e30F, std::numeric_limits<float>::quiet_NaN()};
  Sampler greedy({0, 0, 1, 0, 0}, 3);
  EXPECT_EQ(greedy.sample(logits, 0), 1);
  Sampler warm({5, 0, 1, 0, 0}, 3);
  for (int64_t position = 0; position < 1000; ++position) {
    EXPECT_LT(warm.sample(logits, position), 3);
  }
}

TEST(Sampler, LogitsThatAreNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
    for (const double temperature : {0.0, 1.0}) {
      Sampler sampler({temperature, 0, 1, 0, 0}, 4);
      for (size_t at = 0; at < 4; ++at) {
        std::vector<float> logits(4, 1);
        logits[at] = bad;
        EXPECT_THROW(sampler.sample(logits, 0), Error);
      }
    }
  }
}

TEST(Sampler, ExtremesStayNumbers) {
  const std::vector<float> logits = {-3e38F, 3e38F, 3e38F, 0};
  Sampler cold({1e-300, 0, 0.5, 0, 0}, 4);
  EXPECT_EQ(cold.sample(logits, 3), 1);
  Sampler hot({1e300, 0, 1, 0, 0}, 4);
  double total = 0;
  for (const auto& [id, p] : hot.candidates(logits)) total += p;
  EXPECT_NEAR(total, 1, 1e-15);
  Sampler denormal({5e-324, 0, 1, 0, 0}, 2);
  EXPECT_EQ(denormal.sample(std::vector<float>{0, 1e-45F}, 0), 1);
}

TEST(Sampler, SettingsOutOfRange) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  EXPECT_THROW(Sampler({-0.1, 0, 1, 0, 0}, 4), Error);
  EXPECT_THROW(Sampler({nan, 0, 1, 0, 0}, 4), Error);
  EXPECT_THROW(Sampler({infinity, 0, 1, 0, 0}, 4), Error);
  EXPECT_THROW(Sampler({1, -1, 1, 0, 0}, 4), Error);
  EXPECT_THROW(Sampler({1, 0, 0, 0, 0}, 4), Error);
  EXPECT_THROW(Sampler({1, 0, 1.1, 0, 0}, 4), Error);
  EXPECT_THROW(Sampler({1, 0, nan, 0, 0}, 4), Error);
  EXPECT_THROW(Sampler({1, 0, 1, -0.1, 0}, 4), Error);
  EXPECT_THROW(Sampler({1, 0, 1, 1.1, 0}, 4), Error);
  EXPECT_NO_THROW(Sampler({0, 0, 1, 1, 0}, 4));
}

// A draw is named by seed and position alone: what was drawn before does not matter.
TEST(Sampler, DrawsAreNamedBySeedAndPosition) {
  const std::vector<float> logits = random_logits(50, 1);
  Sampler whole({1, 0, 1, 0, 7}, 50), part({1, 0, 1, 0, 7}, 50), other({1, 0, 1, 0, 8}, 50);
  std::vector<int32_t> all;
  for (int64_t position = 0; position < 64; ++position) {
    all.push_back(whole.sample(logits, position));
  }
  int differ = 0;
  for (int64_t position = 32; position < 64; ++position) {
    EXPECT_EQ(part.sample(logits, position), all[static_cast<size_t>(position)]);
    differ += other.sample(logits, position) != all[static_cast<size_t>(position)] ? 1 : 0;
  }
  EXPECT_GT(differ, 8);
}

// Pearson's chi-square of many draws against the distribution itself. The limit is the
// distribution's quantile at 1 - 1e-5 (Wilson and Hilferty 1931; z = 4.2649); the draws are fixed,
// so the test passes always or never.
TEST(Sampler, DrawsFollowTheDistribution) {
  constexpr int kDraws = 40000;
  const std::vector<float> logits = random_logits(24, 3);
  for (const Sampling& s : {Sampling{1, 0, 1, 0, 5}, Sampling{1.5, 9, 1, 0, 5},
                            Sampling{1, 0, 0.8, 0, 5}, Sampling{2, 0, 1, 0.2, 5}}) {
    Sampler sampler(s, 20);
    std::vector<Sampler::Candidate> candidates = sampler.candidates(logits);
    std::vector<int> drawn(20);
    for (int64_t position = 0; position < kDraws; ++position) {
      ++drawn[static_cast<size_t>(sampler.sample(logits, position))];
    }
    double chi_square = 0;
    int among = 0;
    for (const auto& [id, p] : candidates) {
      const double expected = p * kDraws, got = drawn[static_cast<size_t>(id)];
      ASSERT_GE(expected, 5);  // below that the statistic is not chi-square
      chi_square += (got - expected) * (got - expected) / expected;
      among += drawn[static_cast<size_t>(id)];
    }
    EXPECT_EQ(among, kDraws);
    const auto freedom = static_cast<double>(candidates.size()) - 1;
    const double a = 2 / (9 * freedom);
    EXPECT_LT(chi_square, freedom * std::pow(1 - a + 4.2649 * std::sqrt(a), 3));
  }
}

// Draws from two distributions agree as often as races of the same clocks do: a block of ids and an
// id of it, each i with probability 1 / sum_j max(p_j / p_i, q_j / q_i). The bound is six standard
// deviations.
TEST(Sampler, DrawsFromNearDistributionsAgree) {
  constexpr int kDraws = 20000;
  constexpr int64_t kIds = 200, kBlock = 64;
  const std::vector<float> a = random_logits(kIds, 3);
  std::vector<float> b = a;
  Rng rng(9);
  for (float& x : b) x += static_cast<float>(0.3 * rng.normal());
  const Sampling sampling{1, 0, 1, 0, 5};
  const std::vector<double> p = distribution(a, kIds, sampling),
                            q = distribution(b, kIds, sampling);
  const auto race = [](std::span<const double> x, std::span<const double> y) {
    double agree = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      double all = 0;
      for (size_t j = 0; j < x.size(); ++j) all += std::max(x[j] / x[i], y[j] / y[i]);
      agree += 1 / all;
    }
    return agree;
  };
  std::vector<double> block_p, block_q;
  for (int64_t i = 0; i < kIds; ++i) {
    if (i % kBlock == 0) block_p.push_back(0), block_q.push_back(0);
    block_p.back() += p[static_cast<size_t>(i)];
    block_q.back() += q[static_cast<size_t>(i)];
  }
  double expected = 0;
  for (size_t block = 0; block < block_p.size(); ++block) {
    double all = 0;
    for (size_t j = 0; j < block_p.size(); ++j) {
      all += std::max(block_p[j] / block_p[block], block_q[j] / block_q[block]);
    }
    const size_t begin = block * kBlock, count = std::min<size_t>(kBlock, kIds - begin);
    expected += race(std::span(p).subspan(begin, count), std::span(q).subspan(begin, count)) / all;
  }
  Sampler sampler(sampling, kIds);
  int agree = 0;
  for (int64_t position = 0; position < kDraws; ++position) {
    agree += sampler.sample(a, position) == sampler.sample(b, position) ? 1 : 0;
  }
  EXPECT_NEAR(agree, kDraws * expected, 6 * std::sqrt(kDraws * expected * (1 - expected)));
  EXPECT_GT(expected, 0.7);
  EXPECT_LT(expected, 0.99);
}

// Greedy against a plain search, over sizes, ties and holes.
TEST(Sampler, TheLikeliestIsTheFirstOfTheLargest) {
  Rng rng(21);
  for (int64_t ids = 1; ids < 70; ++ids) {
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<float> logits;
      for (int64_t id = 0; id < ids + 3; ++id) {
        logits.push_back(static_cast<float>(rng.below(4)) - 6);
      }
      std::vector<int32_t> holes;
      for (int32_t id = 0; id + 1 < ids; ++id) {
        if (rng.below(5) == 0) holes.push_back(id);
      }
      int32_t best = -1;
      for (int32_t id = 0; id < ids; ++id) {
        if (std::ranges::count(holes, id) > 0) continue;
        if (best < 0 || logits[static_cast<size_t>(id)] > logits[static_cast<size_t>(best)]) {
          best = id;
        }
      }
      // What is no token may be anything.
      logits.back() = std::numeric_limits<float>::infinity();
      for (const int32_t hole : holes) logits[static_cast<size_t>(hole)] = NAN;
      EXPECT_EQ(Sampler({.temperature = 0}, ids, holes).sample(logits, 0), best) << ids;
      logits[static_cast<size_t>(best)] = trial % 2 == 0 ? NAN : -INFINITY;
      EXPECT_THROW(Sampler({.temperature = 0}, ids, holes).sample(logits, 0), Error);
    }
  }
}

}  // namespace
}  // namespace minke::infer

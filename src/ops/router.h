// The router of DeepSeekMoE: which experts a token goes to, and with what weight.
// V3 (noaux_tc): report section 2.1.2, equations 12-16; V2: greedy and group_limited_greedy.
#pragma once

#include <cstdint>
#include <span>

#include "ops/matrix.h"

namespace minke::ops {

enum class Scoring { kSigmoid, kSoftmax };
enum class TopkMethod { kGreedy, kGroupLimitedGreedy, kNoauxTc };

struct Routing {
  int64_t experts = 0, chosen = 0;        // E, K
  int64_t groups = 1, chosen_groups = 1;  // n_group, topk_group
  Scoring scoring = Scoring::kSigmoid;
  TopkMethod method = TopkMethod::kNoauxTc;
  bool normalize = true;  // norm_topk_prob
  float scale = 1;        // routed_scaling_factor
};

// logits_TE, scores_TE FP32. experts_TK I32, ascending; weights_TK FP32. bias_E FP32, read by
// noaux_tc only, for the choice alone: weights come from the unbiased scores. Ties: the lower index
// wins (groups and experts); masked groups are -inf. forced: experts_TK is input, and only scores
// and weights are computed. A NaN score is an Error naming the token.
void route(const Tensor& experts_TK, const Tensor& weights_TK, const Tensor& scores_TE,
           const Tensor& logits_TE, const Tensor& bias_E, const Routing& how, bool forced);

// counts_E I64 += how often each expert is in experts_TK. Exact, whatever the size.
void count_experts(const Tensor& counts_E, const Tensor& experts_TK);

// b_i += gamma * sign(mean(count) - count_i), with the sign from integers: E * count_i against the
// sum.
void update_bias(const Tensor& bias_E, const Tensor& counts_E, float gamma);

// Sequence-wise balance loss (equations 17-20): per sequence of S tokens f_i = E / (K S) * how
// often i is among the top K of the unbiased, ungrouped scores; P_i = mean_t s_ti / sum_j s_tj.
// Fills f_BE (FP32) and returns the sum over the B sequences of sum_i f_i P_i.
double sequence_balance(const Tensor& f_BE, const Tensor& scores_TE, int64_t sequences,
                        const Routing& how);

// dlogits_TE FP32 is overwritten: through the weights (dweights_TK FP32), and through the balance
// loss balance_scale * sum over sequences of sum_i f_i P_i (no gradient through f).
void router_backward(const Tensor& dlogits_TE, const Tensor& dweights_TK, const Tensor& experts_TK,
                     const Tensor& scores_TE, const Tensor& f_BE, int64_t sequences,
                     float balance_scale, const Routing& how);

}  // namespace minke::ops

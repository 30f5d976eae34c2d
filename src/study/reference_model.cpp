#include "study/reference_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "ref/permute.h"

namespace minke::study {
namespace {

using Numbers = std::vector<double>;
using Var = Tape::Var;
using Store = Tape::Store;

// The two latent norms have this, whatever rms_norm_eps says.
constexpr double kLatentNormEps = 1e-6;

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// Angles a position; YaRN: Peng et al. 2023, as in DeepSeek-V2's report, section 3.1.4.
Numbers frequencies(const model::ModelConfig& c) {
  const auto dim = static_cast<double>(c.qk_rope_head_dim);
  Numbers out;
  for (int64_t i = 0; i < c.qk_rope_head_dim / 2; ++i) {
    const auto at = static_cast<double>(i);
    double f = std::pow(c.rope_theta, -2 * at / dim);
    if (c.rope_scaling) {
      const auto& yarn = *c.rope_scaling;
      const auto dimension_of = [&](double turns) {
        const auto length = static_cast<double>(yarn.original_max_position_embeddings);
        return dim * std::log(length / (turns * 2 * std::numbers::pi)) /
               (2 * std::log(c.rope_theta));
      };
      const double low = std::max(std::floor(dimension_of(yarn.beta_fast)), 0.0);
      double high = std::min(std::ceil(dimension_of(yarn.beta_slow)), dim - 1);
      if (low == high) high += 0.001;
      const double ramp = std::clamp((at - low) / (high - low), 0.0, 1.0);
      f = f / yarn.factor * ramp + f * (1 - ramp);
    }
    out.push_back(f);
  }
  return out;
}

double amplitude(const model::ModelConfig& c) {
  if (!c.rope_scaling) return 1;
  const auto& yarn = *c.rope_scaling;
  const double all = yarn.mscale ? yarn_mscale(yarn.factor, yarn.mscale_all_dim) : 1;
  return yarn_mscale(yarn.factor, yarn.mscale.value_or(1)) / all;
}

double score_scale(const model::ModelConfig& c) {
  const double scale = 1 / std::sqrt(static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim));
  if (!c.rope_scaling || c.rope_scaling->mscale_all_dim == 0) return scale;
  const double m = yarn_mscale(c.rope_scaling->factor, c.rope_scaling->mscale_all_dim);
  return scale * m * m;
}

// Operands of products are rounded; rows to look up, norms and the router's gate are not.
bool is_operand(std::string_view name) {
  return !name.ends_with("norm.weight") && !name.ends_with("embed_tokens.weight") &&
         !name.ends_with("mlp.gate.weight") && !is_router_bias(name);
}

// The positions of a depth.
struct Rows {
  int64_t B = 0, S = 0;
  std::vector<int32_t> position, first;  // first: empty where attention is not masked
};

// One forward and backward.
class Run {
 public:
  Run(const model::ModelConfig& config, const Values& weights, const ReferenceBatch& batch,
      const ReferenceOptions& options)
      : c_(config),
        batch_(batch),
        options_(options),
        tape_(options.rounding, options.gradients),
        how_(reference_routing(config)) {
    for (const auto& [name, value] : weights) {
      Numbers kept = value;
      if (is_operand(name)) std::ranges::transform(kept, kept.begin(), options.rounding);
      weights_[name] = tape_.leaf(std::move(kept));
    }
    const double factor = amplitude(c_);
    for (int64_t p = 0; p < batch.positions; ++p) {
      for (const double f : frequencies(c_)) {
        cos_.push_back(std::cos(static_cast<double>(p) * f) * factor);
        sin_.push_back(std::sin(static_cast<double>(p) * f) * factor);
      }
    }
  }

  ReferenceResult run() {
    const int64_t D = c_.hidden_size;
    const int64_t depths = options_.depths < 0 ? c_.num_nextn_predict_layers : options_.depths;
    for (int64_t k = 0; k <= depths; ++k) rows_.push_back(rows_of(k));

    Var x = tape_.gather_rows(weight("model.embed_tokens.weight"), tokens_from(0), D);
    for (int64_t n = 0; n < c_.num_hidden_layers; ++n) x = block(n, x, rows_[0]);
    Var hidden = final_norm(x, "model.norm.weight");
    out_.numbers["hidden"] = hidden->value;
    head(0, hidden);
    for (int64_t k = 1; k <= depths; ++k) {
      hidden = predict(k, hidden);
      head(k, hidden);
    }
    finish(depths);
    return std::move(out_);
  }

 private:
  Var weight(const std::string& name) const { return weights_.at(name); }

  Rows rows_of(int64_t depth) const {
    Rows rows{batch_.sequences, batch_.positions - depth, {}, {}};
    for (int64_t b = 0; b < rows.B; ++b) {
      int32_t start = 0;
      for (int32_t i = 0; i < rows.S; ++i) {
        rows.position.push_back(i);
        if (!batch_.mask_documents || batch_.documents.empty()) continue;
        const int64_t at = b * batch_.positions + i;
        if (i > 0 && batch_.documents[at] != batch_.documents[at - 1]) start = i;
        rows.first.push_back(start);
      }
    }
    return rows;
  }

  // What depth k reads: each sequence from token k on.
  std::vector<int32_t> tokens_from(int64_t k) const {
    std::vector<int32_t> out;
    for (int64_t b = 0; b < batch_.sequences; ++b) {
      const auto row = batch_.tokens.begin() + b * batch_.positions;
      out.insert(out.end(), row + k, row + batch_.positions);
    }
    return out;
  }

  Var final_norm(Var x, const std::string& name) {
    const Var stored = tape_.rounded(x, Store::kValue);
    return tape_.rounded(tape_.rms_norm(stored, weight(name), c_.hidden_size, c_.rms_norm_eps),
                         Store::kValue);
  }

  void head(int64_t k, Var hidden) {
    const Var logits =
        tape_.rounded(tape_.linear(hidden, weight("lm_head.weight"), c_.vocab_size, c_.hidden_size),
                      Store::kGradient);
    out_.numbers[fmt::format("logits.{}", k)] = logits->value;
    losses_.push_back(tape_.cross_entropy(logits, batch_.targets(k), c_.vocab_size));
  }

  // A depth of multi-token prediction, from the hidden state of the depth before.
  Var predict(int64_t k, Var before) {
    const int64_t n = c_.num_hidden_layers + k - 1, D = c_.hidden_size;
    const std::string prefix = fmt::format("model.layers.{}.", n);
    const Rows& rows = rows_[k];
    std::vector<int32_t> kept;  // every sequence's last row has no token ahead
    for (int64_t b = 0; b < rows.B; ++b) {
      for (int64_t i = 0; i < rows.S; ++i) {
        kept.push_back(static_cast<int32_t>(b * (rows.S + 1) + i));
      }
    }
    const Var next = tape_.gather_rows(weight("model.embed_tokens.weight"), tokens_from(k), D);
    const Var state = tape_.gather_rows(before, std::move(kept), D);
    const Var both = tape_.beside(normed(next, prefix + "enorm.weight"), D,
                                  normed(state, prefix + "hnorm.weight"), D);
    const Var x = tape_.rounded(tape_.linear(both, weight(prefix + "eh_proj.weight"), D, 2 * D),
                                Store::kGradient);
    return final_norm(block(n, x, rows), prefix + "shared_head.norm.weight");
  }
  Var normed(Var x, const std::string& name) {
    return tape_.rounded(tape_.rms_norm(x, weight(name), c_.hidden_size, c_.rms_norm_eps),
                         Store::kBoth);
  }

  Var block(int64_t n, Var x, const Rows& rows) {
    const std::string prefix = fmt::format("model.layers.{}.", n);
    const Var attention_in = final_norm(x, prefix + "input_layernorm.weight");
    x = tape_.add(x, attention(n, prefix + "self_attn.", attention_in, rows));
    const Var ffn_in = final_norm(x, prefix + "post_attention_layernorm.weight");
    if (c_.is_dense(n)) {
      const Var y = ffn(prefix + "mlp.", ffn_in, nullptr, c_.intermediate_size);
      return tape_.add(x, tape_.rounded(y, Store::kGradient));
    }
    return tape_.add(x, moe(n, prefix + "mlp.", ffn_in, rows));
  }

  // A product of what FP8 takes.
  Var product(Var x, const std::string& name, int64_t N, int64_t K) {
    return tape_.rounding().fp8 ? tape_.fp8_linear(x, weight(name), N, K)
                                : tape_.linear(x, weight(name), N, K);
  }
  // One whose result is stored, and whose result's gradient is.
  Var stored_linear(Var x, const std::string& name, int64_t N, int64_t K) {
    return tape_.rounded(product(x, name, N, K), Store::kBoth);
  }

  Var attention(int64_t n, const std::string& prefix, Var x, const Rows& rows) {
    const int64_t D = c_.hidden_size, H = c_.num_attention_heads, R = c_.kv_lora_rank;
    const int64_t nope = c_.qk_nope_head_dim, rope = c_.qk_rope_head_dim, qk = nope + rope;
    Var q = x;
    if (c_.q_lora_rank > 0) {
      const Var q_a = stored_linear(x, prefix + "q_a_proj.weight", c_.q_lora_rank, D);
      const Var latent = latent_norm(q_a, prefix + "q_a_layernorm.weight", c_.q_lora_rank);
      q = stored_linear(latent, prefix + "q_b_proj.weight", H * qk, c_.q_lora_rank);
    } else {
      q = stored_linear(x, prefix + "q_proj.weight", H * qk, D);
    }
    q = tape_.rope(q, {H, qk, nope, rope, cos_, sin_, rows.position});
    q = tape_.rounded(q, Store::kBoth, {qk, nope, rope});

    const Var kv_a = stored_linear(x, prefix + "kv_a_proj_with_mqa.weight", R + rope, D);
    const Var latent =
        latent_norm(tape_.columns(kv_a, R + rope, 0, R), prefix + "kv_a_layernorm.weight", R);
    const Var k_rope = tape_.rounded(tape_.rope(tape_.columns(kv_a, R + rope, R, rope),
                                                {1, rope, 0, rope, cos_, sin_, rows.position}),
                                     Store::kBoth);
    out_.numbers[fmt::format("latent.{}", n)] = tape_.beside(latent, R, k_rope, rope)->value;
    Var o = options_.absorbed ? attend_absorbed(prefix, q, latent, k_rope, rows)
                              : attend_expanded(prefix, q, latent, k_rope, rows);
    if (tape_.rounding().fp8 && !options_.absorbed) o = tape_.fp8_rounded_e5m6(o);
    return tape_.rounded(product(o, prefix + "o_proj.weight", D, H * c_.v_head_dim),
                         Store::kGradient);
  }
  Var latent_norm(Var x, const std::string& name, int64_t width) {
    return tape_.rounded(tape_.rms_norm(x, weight(name), width, kLatentNormEps), Store::kBoth);
  }

  Var attend_expanded(const std::string& prefix, Var q, Var latent, Var k_rope, const Rows& rows) {
    const int64_t H = c_.num_attention_heads, nope = c_.qk_nope_head_dim, v = c_.v_head_dim;
    const Var kv =
        stored_linear(latent, prefix + "kv_b_proj.weight", H * (nope + v), c_.kv_lora_rank);
    return tape_.attention(
        q, kv, k_rope,
        {rows.B, rows.S, H, nope, c_.qk_rope_head_dim, v, score_scale(c_), rows.first});
  }

  // q_nope W_UK attends to the latents themselves; what comes out goes through W_UV.
  Var attend_absorbed(const std::string& prefix, Var q, Var latent, Var k_rope, const Rows& rows) {
    const int64_t H = c_.num_attention_heads, R = c_.kv_lora_rank, v = c_.v_head_dim;
    const int64_t nope = c_.qk_nope_head_dim, rope = c_.qk_rope_head_dim, qk = nope + rope;
    const Numbers& kv_b = weight(prefix + "kv_b_proj.weight")->value;
    Var query = nullptr, kv = nullptr;
    for (int64_t h = 0; h < H; ++h) {
      Numbers w_uk(R * nope);
      for (int64_t i = 0; i < nope; ++i) {
        for (int64_t r = 0; r < R; ++r) w_uk[r * nope + i] = kv_b[(h * (nope + v) + i) * R + r];
      }
      const Var head = tape_.rounded(
          tape_.linear(tape_.columns(q, H * qk, h * qk, nope), tape_.leaf(w_uk), R, nope),
          Store::kValue);
      const Var wide = tape_.beside(head, R, tape_.columns(q, H * qk, h * qk + nope, rope), rope);
      const Var key_value = tape_.beside(latent, R, latent, R);
      query = h == 0 ? wide : tape_.beside(query, h * (R + rope), wide, R + rope);
      kv = h == 0 ? key_value : tape_.beside(kv, h * 2 * R, key_value, 2 * R);
    }
    const Var o_latent = tape_.attention(
        query, kv, k_rope, {rows.B, rows.S, H, R, rope, R, score_scale(c_), rows.first});
    Var o = nullptr;
    for (int64_t h = 0; h < H; ++h) {
      const auto w_uv = kv_b.begin() + (h * (nope + v) + nope) * R;
      const Var head = tape_.rounded(tape_.linear(tape_.columns(o_latent, H * R, h * R, R),
                                                  tape_.leaf(Numbers(w_uv, w_uv + v * R)), v, R),
                                     Store::kValue);
      o = h == 0 ? head : tape_.beside(o, h * v, head, v);
    }
    return o;
  }

  // down(silu(gate(x)) * up(x) * gate_weight)
  Var ffn(const std::string& prefix, Var x, Var gate_weight, int64_t width) {
    const int64_t D = c_.hidden_size;
    const Var gate = product(x, prefix + "gate_proj.weight", width, D);
    const Var up = product(x, prefix + "up_proj.weight", width, D);
    const Var gate_up = tape_.rounded(tape_.beside(gate, width, up, width), Store::kBoth);
    const Var swiglu = tape_.rounding().fp8 ? tape_.fp8_swiglu(gate_up, gate_weight, width)
                                            : tape_.swiglu(gate_up, gate_weight, width);
    return product(tape_.rounded(swiglu, Store::kBoth), prefix + "down_proj.weight", D, width);
  }

  Var moe(int64_t n, const std::string& prefix, Var x, const Rows& rows) {
    const int64_t E = c_.n_routed_experts, K = c_.num_experts_per_tok, D = c_.hidden_size;
    const int64_t T = rows.B * rows.S;
    const Var scores =
        tape_.router_scores(tape_.linear(x, weight(prefix + "gate.weight"), E, D), how_);
    const std::vector<int32_t> experts = choose(n, prefix, scores, T);
    const Var weights = tape_.router_weights(scores, experts, how_);
    add_balance(n, scores, rows);
    add_route(n, prefix, scores, weights, experts);

    const ref::ExpertOrder order = ref::sort_by_expert(experts, T, K, E);
    std::vector<int32_t> choice(order.row.size());  // of each row: the place among [T, K]
    for (size_t i = 0; i < order.row.size(); ++i) choice[order.row[i]] = static_cast<int32_t>(i);
    std::vector<Var> outputs;
    for (int64_t e = 0; e < E; ++e) {
      const int64_t begin = order.offsets[e], end = order.offsets[e + 1];
      const auto slice = [&](const std::vector<int32_t>& of) {
        return std::vector<int32_t>(of.begin() + begin, of.begin() + end);
      };
      const Var input =
          tape_.rounded(tape_.gather_rows(x, slice(order.token), D), Store::kGradient);
      const Var y = ffn(fmt::format("{}experts.{}.", prefix, e), input,
                        tape_.gather_rows(weights, slice(choice), 1), c_.moe_intermediate_size);
      outputs.push_back(tape_.rounded(y, Store::kValue));
    }
    const Var routed =
        tape_.rounded(tape_.combine_rows(tape_.stack(outputs), order.row, K, D), Store::kGradient);
    if (c_.n_shared_experts == 0) return routed;
    const Var shared =
        ffn(prefix + "shared_experts.", x, nullptr, c_.moe_intermediate_size * c_.n_shared_experts);
    return tape_.add(routed, tape_.rounded(shared, Store::kGradient));
  }

  std::vector<int32_t> choose(int64_t n, const std::string& prefix, Var scores, int64_t T) {
    const auto forced = options_.forced.find(n);
    if (forced != options_.forced.end()) {
      MINKE_CHECK(std::ssize(forced->second) == T * how_.chosen);
      return forced->second;
    }
    std::vector<int32_t> experts(T * how_.chosen);
    ref::choose_experts(experts, scores->value, router_bias(prefix), T, how_);
    return experts;
  }
  Numbers router_bias(const std::string& prefix) const {
    const auto bias = weights_.find(prefix + "gate.e_score_correction_bias");
    return bias == weights_.end() ? Numbers{} : bias->second->value;
  }

  void add_balance(int64_t n, Var scores, const Rows& rows) {
    const std::string name = fmt::format("route.{}.fractions", n);
    Numbers f(rows.B * how_.experts);
    const auto given = options_.fractions.find(name);
    if (given != options_.fractions.end()) {
      f = given->second;
    } else {
      ref::balance_fractions(f, scores->value, rows.B, rows.S, how_);
    }
    out_.numbers[name] = f;
    balances_.push_back(tape_.balance_loss(scores, std::move(f), rows.B, rows.S, how_));
  }

  void add_route(int64_t n, const std::string& prefix, Var scores, Var weights,
                 const std::vector<int32_t>& experts) {
    const auto name = [n](const char* what) { return fmt::format("route.{}.{}", n, what); };
    out_.numbers[name("scores")] = scores->value;
    out_.numbers[name("weights")] = weights->value;
    out_.experts[n] = experts;
    auto& counts = out_.counts[n];
    counts.resize(how_.experts);
    ref::count_experts(counts, experts);
    Numbers bias = router_bias(prefix);
    if (bias.empty()) return;
    ref::update_bias(bias, counts, batch_.gamma);
    out_.numbers[name("bias_after")] = bias;
  }

  void finish(int64_t depths) {
    std::vector<std::pair<double, Var>> terms{{1.0, losses_[0]}};
    for (size_t k = 1; k < losses_.size(); ++k) {
      terms.emplace_back(batch_.lambda / static_cast<double>(depths), losses_[k]);
    }
    double balance = 0;
    for (const Var loss : balances_) {
      terms.emplace_back(batch_.alpha, loss);
      balance += loss->value[0];
    }
    const Var total = tape_.weighted_sum(terms);
    for (size_t k = 0; k < losses_.size(); ++k) {
      out_.numbers[fmt::format("loss.{}", k)] = losses_[k]->value;
    }
    out_.numbers["balance"] = {balance};
    out_.numbers["total"] = total->value;
    if (!options_.gradients) return;
    tape_.backward(total);
    for (auto& [name, w] : weights_) {
      if (!is_router_bias(name)) out_.numbers["grad." + name] = std::move(w->gradient);
    }
  }

  const model::ModelConfig& c_;
  const ReferenceBatch& batch_;
  const ReferenceOptions& options_;
  Tape tape_;
  ref::Routing how_;
  std::map<std::string, Var> weights_;
  Numbers cos_, sin_;
  std::deque<Rows> rows_;  // by depth
  std::vector<Var> losses_, balances_;
  ReferenceResult out_;
};

}  // namespace

std::vector<int32_t> ReferenceBatch::targets(int64_t depth) const {
  std::vector<int32_t> out;
  for (int64_t b = 0; b < sequences; ++b) {
    for (int64_t i = 0; i < positions - depth; ++i) {
      const int64_t at = b * positions + i, ahead = at + depth + 1;
      const bool exists = i + depth + 1 < positions;
      const bool counts = exists && (documents.empty() || documents[at] == documents[ahead]);
      out.push_back(counts ? tokens[ahead] : ref::kIgnore);
    }
  }
  return out;
}

ReferenceModel::ReferenceModel(const model::ModelConfig& config, Values weights)
    : config_(config), weights_(std::move(weights)) {
  config_.check();
  for (const auto& [name, shape] : parameter_shapes(config_)) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    const auto found = weights_.find(name);
    if (found == weights_.end()) fail("{} is missing from the model", name);
    if (std::ssize(found->second) != count) {
      fail("{}: {} numbers, expected {} by config.json", name, found->second.size(), count);
    }
  }
}

ReferenceResult ReferenceModel::run(const ReferenceBatch& batch,
                                    const ReferenceOptions& options) const {
  for (const int32_t token : batch.tokens) {
    if (token < 0 || token >= config_.vocab_size) {
      fail("token {}: the vocabulary is 0 to {}", token, config_.vocab_size - 1);
    }
  }
  MINKE_CHECK(!(options.absorbed && options.gradients));
  return Run(config_, weights_, batch, options).run();
}

std::vector<int32_t> ReferenceModel::continue_greedily(std::vector<int32_t> prompt,
                                                       int64_t count) const {
  ReferenceOptions options;
  options.gradients = false;
  options.depths = 0;
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) {
    ReferenceBatch batch;
    batch.sequences = 1;
    batch.positions = std::ssize(prompt);
    batch.tokens = prompt;
    const Numbers logits = run(batch, options).numbers.at("logits.0");
    const auto last = logits.end() - config_.vocab_size;
    out.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
    prompt.push_back(out.back());
  }
  return out;
}

}  // namespace minke::study

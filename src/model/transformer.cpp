#include "model/transformer.h"

#include <algorithm>
#include <numeric>

#include "base/profile.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"

namespace minke::model {
namespace {

RmsNorm norm_of(const ModelConfig& config, std::string name) {
  return {Weight::vector(std::move(name), config.hidden_size),
          static_cast<float>(config.rms_norm_eps)};
}

// Tokens that depth k reads: each sequence's from k on.
std::vector<int32_t> inputs(const Batch& batch, int64_t depth) {
  std::vector<int32_t> out;
  const int64_t S = batch.positions_at(depth);
  for (int64_t b = 0; b < batch.sequences; ++b) {
    const auto row = batch.tokens.subspan(static_cast<size_t>(b * batch.row_tokens + depth),
                                          static_cast<size_t>(S));
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

// Rows of x that stay when sequences shrink from `from` to `to` positions.
void copy_heads(const Tensor& y, const Tensor& x, int64_t sequences, int64_t from, int64_t to) {
  for (int64_t b = 0; b < sequences; ++b) ops::convert(y.rows(b * to, to), x.rows(b * from, to));
}

// Where each token of depth k stands, and the first one that it may attend to.
void lay_out(const Batch& batch, int64_t k, Transformer::Saved& s) {
  const auto d = static_cast<size_t>(k);
  const int64_t S = batch.positions_at(k);
  for (int64_t b = 0; b < batch.sequences; ++b) {
    int32_t start = 0;
    for (int64_t i = 0; i < S; ++i) {
      s.position[d].push_back(static_cast<int32_t>(i));
      if (!batch.mask_documents || batch.documents.empty()) continue;
      const auto at = static_cast<size_t>(b * batch.row_tokens + i);
      if (i > 0 && batch.documents[at] != batch.documents[at - 1]) start = static_cast<int32_t>(i);
      s.first[d].push_back(start);
    }
  }
  s.layout.push_back({batch.sequences, S, s.position[d], s.first[d]});
}

}  // namespace

std::vector<int32_t> Batch::targets(int64_t depth) const {
  const int64_t S = positions_at(depth);
  std::vector<int32_t> out;
  out.reserve(static_cast<size_t>(sequences * S));
  for (int64_t b = 0; b < sequences; ++b) {
    for (int64_t i = 0; i < S; ++i) {
      const int64_t target = i + depth + 1;
      const auto at = static_cast<size_t>(b * row_tokens + i);
      const auto ahead = static_cast<size_t>(b * row_tokens + target);
      const bool counts = target < row_tokens &&
                          (documents.empty() || documents[at] == documents[ahead]) &&
                          (learned.empty() || learned[ahead] != 0);
      out.push_back(counts ? tokens[ahead] : ops::kIgnore);
    }
  }
  return out;
}

int64_t count_valid(std::span<const int32_t> targets) {
  return std::ranges::count_if(targets, [](int32_t t) { return t != ops::kIgnore; });
}

MtpModule::MtpModule(const ModelConfig& config, int64_t layer) : block(config, layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  enorm = norm_of(config, prefix + "enorm.weight");
  hnorm = norm_of(config, prefix + "hnorm.weight");
  norm = norm_of(config, prefix + "shared_head.norm.weight");
  eh_proj = Weight::matrix(Weight::Kind::kHead, prefix + "eh_proj.weight", config.hidden_size,
                           2 * config.hidden_size);
}

Transformer::Transformer(const ModelConfig& config, Precision precision)
    : config_(config), precision_(precision), tables_(config) {
  config_.check();
  embedding_ = Weight::matrix(Weight::Kind::kEmbedding, "model.embed_tokens.weight",
                              config.vocab_size, config.hidden_size);
  head_ =
      Weight::matrix(Weight::Kind::kHead, "lm_head.weight", config.vocab_size, config.hidden_size);
  norm_ = norm_of(config, "model.norm.weight");
  for (int64_t n = 0; n < config.num_hidden_layers; ++n) blocks_.emplace_back(config, n);
  for (int64_t n = config.num_hidden_layers; n < config.layers(); ++n) {
    mtp_.emplace_back(config, n);
  }
}

void Transformer::for_each_weight(const std::function<void(Weight&)>& visit) {
  visit(embedding_);
  for (Block& block : blocks_) block.for_each_weight(visit);
  visit(norm_.weight);
  for (MtpModule& mtp : mtp_) {
    visit(mtp.enorm.weight);
    visit(mtp.hnorm.weight);
    visit(mtp.eh_proj);
    mtp.block.for_each_weight(visit);
    visit(mtp.norm.weight);
  }
  visit(head_);
}

void Transformer::for_each_router(const std::function<void(int64_t, Router&)>& visit) {
  const auto one = [&](Block& block) {
    if (Router* router = block.router()) visit(block.layer(), *router);
  };
  for (Block& block : blocks_) one(block);
  for (MtpModule& mtp : mtp_) one(mtp.block);
}

void Transformer::initialize(uint64_t seed) {
  for_each_weight([&](Weight& weight) {
    weight.own();
    auto& pieces = weight.pieces();
    parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Piece& piece = pieces[static_cast<size_t>(i)];
        if (weight.kind() == Weight::Kind::kVector) {
          std::ranges::fill(piece.value.span<float>(), 1.0F);
          continue;
        }
        Rng rng(stream_key(seed, 0, piece.name));
        for (float& x : piece.value.span<float>()) {
          x = static_cast<float>(rng.normal() * config_.initializer_range);
        }
      }
    });
  });
}

void Transformer::attach_gradients() {
  for_each_weight([](Weight& weight) { weight.attach_gradient(); });
}

void Transformer::clear_gradients() {
  for_each_weight([](Weight& weight) { weight.clear_gradient(); });
}

void Transformer::prepare(bool training) {
  PackJobs jobs;
  for_each_weight(
      [&](Weight& weight) { weight.add_pack_jobs(precision_, fp8_.scales, training, jobs); });
  jobs.run();
}

void Transformer::prepare_decode() {
  PackJobs jobs;
  for_each_mla([&](Mla& mla) { mla.add_absorbed_pack_jobs(precision_, jobs); });
  jobs.run();
}

void Transformer::for_each_mla(const std::function<void(Mla&)>& visit) {
  for (Block& block : blocks_) visit(block.mla());
  for (MtpModule& mtp : mtp_) visit(mtp.block.mla());
}

size_t Transformer::operand_bytes() {
  size_t bytes = packed_size(false);
  for_each_mla([&](const Mla& mla) { bytes += mla.absorbed_size(precision_); });
  return bytes;
}

void Transformer::place_operands(std::byte* memory) {
  for_each_weight([&](Weight& weight) {
    weight.place(precision_, memory);
    memory += weight.packed_size(precision_, false);
  });
  for_each_mla([&](Mla& mla) {
    mla.place_absorbed(precision_, memory);
    memory += mla.absorbed_size(precision_);
  });
}

void Transformer::pack_operands(const std::function<void(const Weight&)>& on_weight) {
  prepare_decode();
  for_each_weight([&](Weight& weight) {
    PackJobs jobs;
    weight.add_pack_jobs(precision_, fp8_.scales, false, jobs);
    jobs.run();
    on_weight(weight);
  });
}

size_t Transformer::packed_size(bool training) {
  size_t bytes = 0;
  for_each_weight([&](Weight& weight) { bytes += weight.packed_size(precision_, training); });
  return bytes;
}

void Transformer::forward(const Batch& batch, const Options& options, Saved& s, const Pass& pass) {
  const auto depths = options.depths < 0 ? static_cast<int64_t>(mtp_.size()) : options.depths;
  tables_.reserve(batch.positions);
  s.position.resize(static_cast<size_t>(depths) + 1);
  s.first.resize(s.position.size());
  for (int64_t k = 0; k <= depths; ++k) lay_out(batch, k, s);
  forward_trunk(batch, options, s, pass);
  s.mtp.resize(static_cast<size_t>(depths));
  for (int64_t k = 1; k <= depths; ++k) forward_mtp(batch, k, options, s, pass);
}

void Transformer::forward_block(Block& block, const Tensor& x, const Layout& layout,
                                const Options& options, Block::Saved& saved, Saved& s,
                                const Pass& pass) {
  const auto& forced = options.forced_experts;
  const double balance = block.forward(
      x, layout, tables_, forced.empty() ? Tensor{} : forced[static_cast<size_t>(block.layer())],
      options.counting, saved, pass);
  if (block.router() != nullptr) s.balance.push_back(balance);
}

void Transformer::forward_trunk(const Batch& batch, const Options& options, Saved& s,
                                const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const Tensor x = pass.scratch.make(DType::kF32, {s.layout[0].tokens(), config_.hidden_size});
  ops::embedding(x, embedding_.pieces()[0].value, inputs(batch, 0));
  s.blocks.resize(blocks_.size());
  for (size_t n = 0; n < blocks_.size(); ++n) {
    forward_block(blocks_[n], x, s.layout[0], options, s.blocks[n], s, pass);
  }
  s.x_out = keep(x, pass);
  s.hidden.push_back(pass.saved.make(pass.activation(), x.shape()));
  norm_.forward(s.hidden[0], s.x_out, s.norm, pass);
}

void Transformer::forward_mtp(const Batch& batch, int64_t k, const Options& options, Saved& s,
                              const Pass& pass) {
  const auto d = static_cast<size_t>(k);
  const DType act = pass.activation();
  const Layout& layout = s.layout[d];
  const int64_t before = s.layout[d - 1].positions;
  MtpModule& mtp = mtp_[d - 1];
  MtpModule::Saved& m = s.mtp[d - 1];
  const int64_t T = layout.tokens(), D = config_.hidden_size;
  m.h_TD = s.hidden.back();
  if (layout.positions != before) {
    m.h_TD = pass.saved.make(act, {T, D});
    copy_heads(m.h_TD, s.hidden.back(), batch.sequences, before, layout.positions);
  }
  m.input_T2D = pass.saved.make(act, {T, 2 * D});
  const Arena::Scope scope(pass.scratch);
  const Tensor x = pass.scratch.make(DType::kF32, {T, D});
  ops::embedding(x, embedding_.pieces()[0].value, inputs(batch, k));
  mtp.enorm.forward(ops::Matrix(m.input_T2D).columns(0, D), x, m.enorm, pass);
  mtp.hnorm.forward(ops::Matrix(m.input_T2D).columns(D, D), m.h_TD, m.hnorm, pass);
  linear(x, m.input_T2D, mtp.eh_proj, false, pass);
  forward_block(mtp.block, x, layout, options, m.block, s, pass);
  m.x_out = keep(x, pass);
  s.hidden.push_back(pass.saved.make(act, {T, D}));
  mtp.norm.forward(s.hidden.back(), m.x_out, m.norm, pass);
}

void Transformer::backward(const Batch& batch, std::span<const Tensor> dhidden, float balance_scale,
                           Saved& s, const Pass& pass) {
  const int64_t D = config_.hidden_size;
  for (auto k = static_cast<int64_t>(s.mtp.size()); k >= 1; --k) {
    const auto d = static_cast<size_t>(k);
    const Layout& layout = s.layout[d];
    const int64_t before = s.layout[d - 1].positions, T = layout.tokens();
    MtpModule& mtp = mtp_[d - 1];
    MtpModule::Saved& m = s.mtp[d - 1];
    const Arena::Scope scope(pass.scratch);
    const Tensor dx = pass.scratch.make(DType::kF32, {T, D});
    mtp.norm.backward(dx, false, dhidden[d], m.x_out, m.norm, pass);
    mtp.block.backward(dx, layout, tables_, balance_scale, m.block, pass);
    const Tensor dinput = pass.scratch.make(pass.activation(), {T, 2 * D});
    linear_backward(dinput, false, dx, m.input_T2D, mtp.eh_proj, pass);

    const std::vector<int32_t> tokens = inputs(batch, k);
    const Tensor embedded = pass.scratch.make(DType::kF32, {T, D});
    ops::embedding(embedded, embedding_.pieces()[0].value, tokens);
    mtp.enorm.backward(dx, false, ops::Matrix(dinput).columns(0, D), embedded, m.enorm, pass);
    ops::embedding_backward(embedding_.gradient(), dx, tokens);

    mtp.hnorm.backward(dx, false, ops::Matrix(dinput).columns(D, D), m.h_TD, m.hnorm, pass);
    for (int64_t b = 0; b < batch.sequences; ++b) {
      ops::add(dhidden[d - 1].rows(b * before, layout.positions),
               dx.rows(b * layout.positions, layout.positions));
    }
  }
  const Arena::Scope scope(pass.scratch);
  const Tensor dx = pass.scratch.make(DType::kF32, {s.layout[0].tokens(), D});
  norm_.backward(dx, false, dhidden[0], s.x_out, s.norm, pass);
  for (size_t n = blocks_.size(); n-- > 0;) {
    blocks_[n].backward(dx, s.layout[0], tables_, balance_scale, s.blocks[n], pass);
  }
  ops::embedding_backward(embedding_.gradient(), dx, inputs(batch, 0));
}

void Transformer::head_losses(const Batch& batch, std::span<const float> scale, Saved& s,
                              std::span<const Tensor> dhidden,
                              std::span<const std::span<float>> loss,
                              std::span<const std::span<int32_t>> argmax, Losses& out,
                              const Pass& pass) {
  for (size_t k = 0; k < s.hidden.size(); ++k) {
    const std::vector<int32_t> targets = batch.targets(static_cast<int64_t>(k));
    ops::CrossEntropy what;
    what.h_TD = s.hidden[k];
    what.head = head_.fprop();
    what.targets = targets;
    if (!dhidden.empty()) {
      what.scale = scale[k];
      what.head_dgrad = head_.dgrad();
      what.dh_TD = dhidden[k];
      what.dw_VD = head_.gradient();
      what.adds_to_dw = head_.adds_to_gradient();
    }
    if (k < loss.size()) what.loss_T = loss[k];
    if (k < argmax.size()) what.argmax_T = argmax[k];
    const double sum = ops::linear_cross_entropy(what, pass.scratch);
    out.depth.push_back({sum, count_valid(targets)});
  }
  out.balance = std::accumulate(s.balance.begin(), s.balance.end(), 0.0);
}

Transformer::Losses Transformer::forward_backward(const Batch& batch, std::span<const float> scale,
                                                  float balance_scale, const Options& options,
                                                  const Pass& pass) {
  const Arena::Scope scope(pass.saved);
  Saved saved;
  {
    const Profiled profiled("forward");
    forward(batch, options, saved, pass);
  }
  std::vector<Tensor> dhidden;
  for (const Tensor& hidden : saved.hidden) {
    dhidden.push_back(pass.saved.make(DType::kF32, hidden.shape()));
  }
  Losses out;
  {
    const Profiled profiled("loss");
    head_losses(batch, scale, saved, dhidden, {}, {}, out, pass);
  }
  const Profiled profiled("backward");
  backward(batch, dhidden, balance_scale, saved, pass);
  for_each_weight([](Weight& weight) { weight.settle_gradient(); });
  return out;
}

Transformer::Losses Transformer::evaluate(const Batch& batch, const Options& options,
                                          std::span<const std::span<float>> loss,
                                          std::span<const std::span<int32_t>> argmax,
                                          const Pass& pass) {
  const Arena::Scope scope(pass.saved);
  Saved saved;
  // No backward will read the blocks' activations: each block's are given back as it ends.
  const Pass passing = pass.with(Recompute::kBlock);
  forward(batch, options, saved, passing);
  Losses out;
  head_losses(batch, {}, saved, {}, loss, argmax, out, pass);
  return out;
}

void Transformer::logits(const Tensor& logits_MV, const Tensor& hidden_MD, const Pass& pass) const {
  linear(logits_MV, hidden_MD, head_, false, pass);
}

void Transformer::reserve_tables(std::span<const CacheRow> rows) {
  int32_t last = 0;
  for (const CacheRow& row : rows) last = std::max(last, row.position);
  tables_.reserve(last + int64_t{1});
}

void Transformer::decode(const Tensor& hidden_AD, std::span<const int32_t> tokens,
                         std::span<const CacheRow> rows, const DecodeRoutes& routes,
                         const Pass& pass) {
  reserve_tables(rows);
  const auto M = static_cast<int64_t>(rows.size());
  const int64_t A = hidden_AD.dim(0);
  MINKE_CHECK(A >= 1 && A <= M, "{} states of {} rows", A, M);
  const Arena::Scope scope(pass.scratch);
  const Tensor x = pass.scratch.make(DType::kF32, {M, config_.hidden_size});
  ops::embedding(x, embedding_.pieces()[0].value, tokens);
  const auto at = [](std::span<const Tensor> of, size_t n) {
    return of.empty() ? Tensor{} : of[n];
  };
  for (size_t n = 0; n < blocks_.size(); ++n) {
    blocks_[n].decode(x, n + 1 < blocks_.size() ? M : A, rows, tables_, at(routes.forced, n),
                      at(routes.chosen, n), pass);
  }
  const Tensor rounded = pass.scratch.make(pass.activation(), hidden_AD.shape());
  ops::convert(rounded, x.rows(M - A, A));
  norm_.forward(hidden_AD, rounded);
}

void Transformer::decode_mtp(const Tensor& hidden_AD, const Tensor& state_MD,
                             std::span<const int32_t> tokens, std::span<const CacheRow> rows,
                             const Pass& pass) {
  MINKE_CHECK(has_mtp());
  reserve_tables(rows);
  MtpModule& mtp = mtp_.front();
  const auto M = static_cast<int64_t>(rows.size());
  const int64_t A = hidden_AD.dim(0), D = config_.hidden_size;
  const Arena::Scope scope(pass.scratch);
  const Tensor x = pass.scratch.make(DType::kF32, {M, D});
  const Tensor input_M2D = pass.scratch.make(pass.activation(), {M, 2 * D});
  ops::embedding(x, embedding_.pieces()[0].value, tokens);
  mtp.enorm.forward(ops::Matrix(input_M2D).columns(0, D), x);
  mtp.hnorm.forward(ops::Matrix(input_M2D).columns(D, D), state_MD);
  linear(x, input_M2D, mtp.eh_proj, false, pass);
  mtp.block.decode(x, A, rows, tables_, {}, {}, pass);
  const Tensor rounded = pass.scratch.make(pass.activation(), {A, D});
  ops::convert(rounded, x.rows(M - A, A));
  mtp.norm.forward(hidden_AD, rounded);
}

}  // namespace minke::model

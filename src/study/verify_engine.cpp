#include "study/verify_engine.h"

#include <algorithm>

#include "checkpoint/model_files.h"
#include "infer/latent_cache.h"
#include "model/memory.h"

namespace minke::study {
namespace {

using model::Transformer;
using Numbers = std::vector<double>;

Numbers to_numbers(const Tensor& x) {
  Numbers out;
  out.reserve(x.count());
  if (x.dtype() == DType::kBF16) {
    for (const bf16 v : x.span<bf16>()) out.push_back(static_cast<double>(static_cast<float>(v)));
  } else {
    for (const float v : x.span<float>()) out.push_back(static_cast<double>(v));
  }
  return out;
}

// Forced experts as the model takes them: a tensor for each layer, empty where none are forced.
class ForcedExperts {
 public:
  ForcedExperts(const Experts& experts, int64_t layers, int64_t chosen)
      : memory_(experts), tensors_(layers) {
    for (auto& [layer, numbers] : memory_) {
      if (layer >= layers) continue;
      tensors_[layer] = Tensor(numbers.data(), {std::ssize(numbers) / chosen, chosen});
    }
  }
  std::span<const Tensor> tensors() const { return tensors_; }

 private:
  Experts memory_;
  std::vector<Tensor> tensors_;
};

// Tokens taken by decode at once: several, and not a divisor of much.
constexpr int64_t kDecodeRows = 7;

size_t arena_bytes(const GoldenFolder& folder, model::Precision precision) {
  const model::ModelConfig& c = folder.config.model;
  const model::StepMemory step =
      model::step_memory(c, precision, folder.batch.sequences, folder.batch.positions);
  const int64_t tokens = folder.batch.sequences * folder.batch.positions;
  const size_t logits = static_cast<size_t>(tokens * c.vocab_size) * sizeof(float);
  return step.saved_space() + step.scratch_space() + logits;
}

model::Batch batch_of(const ReferenceBatch& batch) {
  model::Batch out;
  out.sequences = batch.sequences;
  out.positions = batch.positions;
  out.row_tokens = batch.positions;
  out.tokens = batch.tokens;
  out.documents = batch.documents;
  out.mask_documents = batch.mask_documents;
  return out;
}

}  // namespace

Engine::Engine(const GoldenFolder& folder, model::Precision precision,
               const std::function<void(Transformer&)>& change)
    : folder_(folder),
      precision_(precision),
      model_(folder.config.model, precision),
      saved_(arena_bytes(folder, precision)),
      scratch_(arena_bytes(folder, precision)) {
  const bool training = folder.has_gradients();
  checkpoint::load_weights(model_, *folder.files,
                           training ? checkpoint::Use::kTraining : checkpoint::Use::kInference);
  if (change) change(model_);
  if (training) model_.attach_gradients();
  model_.prepare(training);
  model_.prepare_decode();
}

ReferenceResult Engine::run(const Experts& forced_experts) {
  const model::ModelConfig& c = model_.config();
  const model::Batch batch = batch_of(folder_.batch);
  const ForcedExperts forced(forced_experts, c.layers(), c.num_experts_per_tok);
  Transformer::Options options;
  options.forced_experts = forced.tensors();
  const Arena::Scope saved_scope(saved_), scratch_scope(scratch_);
  ReferenceResult out;
  std::vector<float> scale;
  {
    const Arena::Scope scope(saved_);
    Transformer::Saved saved;
    model_.forward(batch, options, saved, pass());
    read_forward(saved, pass(), out);
  }
  model_.for_each_router([](int64_t, model::Router& router) {
    std::ranges::fill(router.counts_E.span<int64_t>(), 0);
  });
  options.counting = true;
  if (!folder_.has_gradients()) {
    read_losses(model_.evaluate(batch, options, {}, {}, pass()), out);
    read_routers(out);
    return out;
  }
  for (int64_t k = 0; k <= c.num_nextn_predict_layers; ++k) {
    const auto valid = static_cast<double>(model::count_valid(batch.targets(k)));
    const double share =
        k == 0 ? 1 : folder_.batch.lambda / static_cast<double>(c.num_nextn_predict_layers);
    scale.push_back(valid == 0 ? 0.0F : static_cast<float>(share / valid));
  }
  const double balance_scale = folder_.batch.alpha / static_cast<double>(batch.sequences);
  model_.clear_gradients();
  read_losses(
      model_.forward_backward(batch, scale, static_cast<float>(balance_scale), options, pass()),
      out);
  model_.for_each_weight([&](model::Weight& weight) {
    for (const model::Piece& piece : weight.pieces()) {
      out.numbers["grad." + piece.name] = to_numbers(piece.grad);
    }
  });
  read_routers(out);
  return out;
}

void Engine::read_forward(const Transformer::Saved& saved, const model::Pass& pass,
                          ReferenceResult& out) {
  const model::ModelConfig& c = model_.config();
  out.numbers["hidden"] = to_numbers(saved.hidden[0]);
  for (size_t k = 0; k < saved.hidden.size(); ++k) {
    const Arena::Scope scope(scratch_);
    const Tensor& hidden = saved.hidden[k];
    const Tensor logits = scratch_.make(DType::kF32, {hidden.dim(0), c.vocab_size});
    model_.logits(logits, hidden, pass);
    out.numbers[fmt::format("logits.{}", k)] = to_numbers(logits);
  }
  const int64_t B = folder_.batch.sequences;
  for (size_t n = 0; n < saved.blocks.size(); ++n) {
    read_block(static_cast<int64_t>(n), saved.blocks[n], B, out);
  }
  for (size_t k = 0; k < saved.mtp.size(); ++k) {
    read_block(c.num_hidden_layers + static_cast<int64_t>(k), saved.mtp[k].block, B, out);
  }
}

void Engine::read_block(int64_t layer, const model::Block::Saved& saved, int64_t sequences,
                        ReferenceResult& out) const {
  const model::ModelConfig& c = model_.config();
  const Numbers latent = to_numbers(saved.mla.expanded.latent_TR),
                key = to_numbers(saved.mla.k_rope);
  Numbers& both = out.numbers[fmt::format("latent.{}", layer)];
  const int64_t R = c.kv_lora_rank, rope = c.qk_rope_head_dim;
  for (int64_t t = 0; t < std::ssize(latent) / R; ++t) {
    both.insert(both.end(), latent.begin() + t * R, latent.begin() + (t + 1) * R);
    both.insert(both.end(), key.begin() + t * rope, key.begin() + (t + 1) * rope);
  }
  if (c.is_dense(layer)) return;
  const model::Router::Saved& route = saved.moe.route;
  const std::string name = fmt::format("route.{}.", layer);
  out.numbers[name + "weights"] = to_numbers(route.weights_TK);
  out.numbers[name + "scores"] = to_numbers(route.scores_TE);
  MINKE_CHECK(route.f_BE.dim(0) == sequences);
  out.numbers[name + "fractions"] = to_numbers(route.f_BE);
  const auto experts = route.experts_TK.span<int32_t>();
  out.experts[layer].assign(experts.begin(), experts.end());
}

void Engine::read_losses(const Transformer::Losses& losses, ReferenceResult& out) const {
  const ReferenceBatch& batch = folder_.batch;
  double total = 0;
  for (size_t k = 0; k < losses.depth.size(); ++k) {
    const auto& [sum, valid] = losses.depth[k];
    const double mean = valid == 0 ? 0 : sum / static_cast<double>(valid);
    out.numbers[fmt::format("loss.{}", k)] = {mean};
    total += k == 0 ? mean : batch.lambda / static_cast<double>(losses.depth.size() - 1) * mean;
  }
  const double balance = losses.balance / static_cast<double>(batch.sequences);
  out.numbers["balance"] = {balance};
  out.numbers["total"] = {total + batch.alpha * balance};
}

// Counts of the batch, and the bias after a step's update.
void Engine::read_routers(ReferenceResult& out) {
  model_.for_each_router([&](int64_t layer, model::Router& router) {
    const auto counts = router.counts_E.span<int64_t>();
    out.counts[layer].assign(counts.begin(), counts.end());
    if (!router.has_bias()) return;
    const OwnedTensor after(DType::kF32, router.bias_E.shape());
    std::ranges::copy(router.bias_E.span<float>(), after.span<float>().begin());
    ops::update_bias(after, router.counts_E, static_cast<float>(folder_.batch.gamma));
    out.numbers[fmt::format("route.{}.bias_after", layer)] = to_numbers(after);
  });
}

std::vector<int64_t> Engine::decoded_lengths() const {
  const ReferenceBatch& batch = folder_.batch;
  std::vector<int64_t> out;
  for (int64_t b = 0; b < batch.sequences; ++b) {
    int64_t length = batch.positions;
    if (batch.mask_documents && !batch.documents.empty()) {
      const auto row = batch.documents.begin() + b * batch.positions;
      length = std::find_if(row, row + length, [&](int32_t d) { return d != *row; }) - row;
    }
    out.push_back(length);
  }
  return out;
}

ReferenceResult Engine::run_decoded(const Experts& forced) {
  const model::ModelConfig& c = model_.config();
  const int64_t S = folder_.batch.positions, L = c.num_hidden_layers, D = c.hidden_size;
  const int64_t K = c.num_experts_per_tok, W = c.latent_width();
  ReferenceResult out;
  Numbers& all_hidden = out.numbers["hidden"];
  all_hidden.resize(folder_.batch.sequences * S * D);
  for (int64_t n = 0; n < L; ++n) {
    out.numbers[fmt::format("latent.{}", n)].resize(folder_.batch.sequences * S * W);
  }
  const std::vector<int64_t> lengths = decoded_lengths();
  for (int64_t b = 0; b < folder_.batch.sequences; ++b) {
    infer::LatentCache cache(c, precision_, L, S);
    std::vector<model::CacheRow> first;
    for (int64_t at = 0; at < lengths[b];) {
      const int64_t M = std::min(kDecodeRows, lengths[b] - at), token = b * S + at;
      Experts slices;
      for (const auto& [layer, experts] : forced) {
        if (layer >= L) continue;
        const auto begin = experts.begin() + token * K;
        slices[layer].assign(begin, begin + M * K);
      }
      const ForcedExperts experts(slices, L, K);
      const Arena::Scope saved_scope(saved_), scratch_scope(scratch_);
      const Tensor hidden = scratch_.make(dtype_of_precision(precision_), {M, D});
      const std::vector<model::CacheRow> rows = cache.next_rows(M);
      model_.decode(hidden, std::span(folder_.batch.tokens).subspan(token, M), rows,
                    {experts.tensors(), {}}, pass());
      std::ranges::copy(to_numbers(hidden), all_hidden.begin() + token * D);
      cache.advance(M);
      at += M;
      if (at < lengths[b]) continue;
      const Tensor memory(rows[0].cache, dtype_of_precision(precision_), {L, rows[0].capacity, W});
      for (int64_t n = 0; n < L; ++n) {
        std::ranges::copy(to_numbers(memory[n].rows(0, at)),
                          out.numbers[fmt::format("latent.{}", n)].begin() + b * S * W);
      }
    }
  }
  return out;
}

Engine::Text Engine::continue_greedily() {
  const model::ModelConfig& c = model_.config();
  const int64_t L = c.num_hidden_layers, K = c.num_experts_per_tok, V = c.vocab_size;
  const auto wanted = folder_.greedy.size();
  infer::LatentCache cache(c, precision_, L, static_cast<int64_t>(folder_.prompt.size() + wanted));
  Text text;
  std::vector<int32_t> tokens = folder_.prompt;
  while (text.tokens.size() < wanted) {
    const auto M = static_cast<int64_t>(tokens.size());
    std::vector<OwnedTensor> memory(L);
    std::vector<Tensor> chosen(L);
    for (int64_t n = c.first_k_dense_replace; n < L; ++n) {
      memory[n] = OwnedTensor(DType::kI32, {M, K});
      chosen[n] = memory[n];
    }
    const Arena::Scope saved_scope(saved_), scratch_scope(scratch_);
    const Tensor hidden = scratch_.make(dtype_of_precision(precision_), {M, c.hidden_size});
    const Tensor logits = scratch_.make(DType::kF32, {1, V});
    model_.decode(hidden, tokens, cache.next_rows(M), {{}, chosen}, pass());
    cache.advance(M);
    for (int64_t n = c.first_k_dense_replace; n < L; ++n) {
      const auto experts = chosen[n].span<int32_t>();
      text.experts[n].insert(text.experts[n].end(), experts.begin(), experts.end());
    }
    model_.logits(logits, hidden.rows(M - 1, 1), pass());
    const auto row = logits.span<float>();
    tokens = {static_cast<int32_t>(std::ranges::max_element(row) - row.begin())};
    text.tokens.push_back(tokens[0]);
  }
  return text;
}

}  // namespace minke::study

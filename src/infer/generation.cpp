#include "infer/generation.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "ops/attention.h"

namespace minke::infer {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double rate(int64_t tokens, double seconds) {
  return tokens > 0 && seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

DType activation(const model::Transformer& model) {
  return model::dtype_of_precision(model.precision());
}

// What attention over `context` tokens takes of an arena, by asking it.
size_t attention_bytes(const model::ModelConfig& c, DType dtype, int64_t rows, int64_t context) {
  alignas(64) static std::byte nowhere[64];  // only counted, never read
  const int64_t heads = c.num_attention_heads;
  Arena counting{Arena::Counting{}};
  const std::vector<ops::LatentRow> latent(static_cast<size_t>(rows), {nowhere, context});
  ops::latent_attention(Tensor(nowhere, dtype, {rows, heads * c.kv_lora_rank}),
                        Tensor(nowhere, dtype, {rows, heads * c.latent_width()}), latent, heads,
                        c.kv_lora_rank, c.qk_rope_head_dim, 1, counting);
  return counting.peak();
}

// More than `rows` rows of decode ever take of an arena besides: every width of a block, twice over
// (an activation and its operand), in FP32, and a constant for what does not grow with the rows.
// Memory that is not written is never had, so a generous bound costs nothing.
size_t arena_bytes(const model::ModelConfig& c, DType dtype, int64_t rows, int64_t context) {
  constexpr size_t kConstant = size_t{16} << 20;
  const int64_t attention =
      c.num_attention_heads * (c.qk_head_dim() + c.latent_width() + c.kv_lora_rank + c.v_head_dim) +
      2 * c.latent_width() + 2 * c.q_lora_rank;
  const int64_t moe = c.num_experts_per_tok * (c.hidden_size + 3 * c.moe_intermediate_size + 8) +
                      3 * c.n_routed_experts + 3 * c.n_shared_experts * c.moe_intermediate_size;
  const int64_t width =
      4 * c.hidden_size + attention + moe + 3 * c.intermediate_size + c.vocab_size;
  return kConstant + attention_bytes(c, dtype, rows, context) +
         static_cast<size_t>(rows) * static_cast<size_t>(width) * 2 * sizeof(float);
}

}  // namespace

std::string_view name_of(Stop stop) {
  switch (stop) {
    case Stop::kEnd:
      return "end of text";
    case Stop::kMaxTokens:
      return "max-tokens";
    case Stop::kContext:
      return "context full";
    case Stop::kInterrupted:
      return "interrupted";
  }
  MINKE_CHECK(false);
}

double Generation::prefill_rate() const { return rate(prefill, prefill_seconds); }
double Generation::decode_rate() const { return rate(steps, decode_seconds); }

Generator::Generator(model::Transformer& model, Options options)
    : model_(model),
      options_(std::move(options)),
      cache_(model.config(), model.precision(), model.config().num_hidden_layers,
             options_.context > 0 ? options_.context : model.config().max_position_embeddings),
      saved_(arena_bytes(model.config(), activation(model), options_.prefill_rows, 1)),
      scratch_(
          arena_bytes(model.config(), activation(model), options_.prefill_rows, cache_.limit())),
      hidden_MD_(activation(model), {options_.prefill_rows, model.config().hidden_size}),
      logits_1V_(DType::kF32, {1, model.config().vocab_size}) {
  MINKE_CHECK(options_.prefill_rows > 0);
  const int64_t most = model.config().vocab_size;
  if (options_.vocabulary == 0) options_.vocabulary = most;
  if (options_.vocabulary > most) {
    fail("the tokenizer has {} tokens, the model {}: they do not belong together",
         options_.vocabulary, most);
  }
}

void Generator::check_prompt(std::span<const int32_t> prompt) const {
  if (prompt.empty()) fail("the prompt is empty: there is nothing to continue");
  const auto length = static_cast<int64_t>(prompt.size());
  if (length >= context()) {
    fail("the prompt has {} tokens, which leaves no room in a context of {}: shorten it", length,
         context());
  }
  for (const int32_t token : prompt) {
    if (token < 0 || token >= options_.vocabulary) {
      fail("token {} of the prompt is not in the vocabulary of {}", token, options_.vocabulary);
    }
  }
}

// Cuts the cache to what it has in common with the prompt, save the prompt's last token: its logits
// are needed.
int64_t Generator::keep_common(std::span<const int32_t> prompt) {
  const size_t most = std::min(cached_.size(), prompt.size() - 1);
  size_t common = 0;
  while (common < most && cached_[common] == prompt[common]) ++common;
  cache_.truncate(static_cast<int64_t>(common));
  cached_.resize(common);
  return static_cast<int64_t>(common);
}

void Generator::step(std::span<const int32_t> tokens, bool with_logits) {
  const auto count = static_cast<int64_t>(tokens.size());
  const Arena::Scope saved(saved_), scratch(scratch_);
  const model::Pass pass{model_.precision(), saved_, scratch_};
  const Tensor hidden_MD = hidden_MD_.rows(0, count);
  model_.decode(hidden_MD, tokens, cache_.next_rows(count), pass);
  cache_.advance(count);
  cached_.insert(cached_.end(), tokens.begin(), tokens.end());
  if (with_logits) model_.logits(logits_1V_, hidden_MD.rows(count - 1, 1), pass);
}

bool Generator::prefill(std::span<const int32_t> prompt, const ShouldStop& should_stop,
                        Generation& out) {
  const auto start = Clock::now();
  const auto length = static_cast<int64_t>(prompt.size());
  for (int64_t at = out.reused; at < length;) {
    if (should_stop()) return false;
    const int64_t rows = std::min(options_.prefill_rows, length - at);
    const auto chunk = prompt.subspan(static_cast<size_t>(at), static_cast<size_t>(rows));
    at += rows;
    step(chunk, at == length);
    out.prefill += rows;
    out.prefill_seconds = seconds_since(start);
  }
  return true;
}

Generation Generator::generate(std::span<const int32_t> prompt, const Sampling& sampling,
                               int64_t max_tokens, const OnToken& on_token,
                               const ShouldStop& should_stop) {
  if (max_tokens < 1) fail("max-tokens {}: must be 1 or more", max_tokens);
  check_prompt(prompt);
  Sampler sampler(sampling, options_.vocabulary, options_.holes);
  Generation out;
  out.reused = keep_common(prompt);
  const auto stopped = [&out](Stop why) {
    out.stop = why;
    return out;
  };
  if (!prefill(prompt, should_stop, out)) return stopped(Stop::kInterrupted);

  const std::span<const float> logits_V = logits_1V_.span<float>();
  const auto start = Clock::now();
  for (auto position = static_cast<int64_t>(prompt.size());; ++position) {
    const int32_t token = sampler.sample(logits_V, position);
    if (std::ranges::count(options_.end_tokens, token) > 0) return stopped(Stop::kEnd);
    out.tokens.push_back(token);
    on_token(token);
    if (std::ssize(out.tokens) == max_tokens) return stopped(Stop::kMaxTokens);
    if (position + 1 == context()) return stopped(Stop::kContext);
    if (should_stop()) return stopped(Stop::kInterrupted);
    step(std::span(&token, 1), true);
    ++out.steps;
    out.decode_seconds = seconds_since(start);
  }
}

}  // namespace minke::infer

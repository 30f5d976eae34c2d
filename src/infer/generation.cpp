#include "infer/generation.h"

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "ops/attention.h"

namespace minke::infer {
namespace {

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

// More than `rows` rows of decode, or of MTP, ever take of an arena besides: every width, twice
// over (an activation and its operand), in FP32, and a constant for what does not grow with the
// rows. Memory that is not written is never had, so a generous bound costs nothing.
size_t arena_bytes(const model::ModelConfig& c, DType dtype, int64_t rows, int64_t context) {
  constexpr size_t kConstant = size_t{16} << 20;
  const int64_t attention =
      c.num_attention_heads * (c.qk_head_dim() + c.latent_width() + c.kv_lora_rank + c.v_head_dim) +
      2 * c.latent_width() + 2 * c.q_lora_rank;
  const int64_t moe = c.num_experts_per_tok * (c.hidden_size + 3 * c.moe_intermediate_size + 8) +
                      3 * c.n_routed_experts + 3 * c.n_shared_experts * c.moe_intermediate_size;
  const int64_t width =
      7 * c.hidden_size + attention + moe + 3 * c.intermediate_size + c.vocab_size;
  return kConstant + attention_bytes(c, dtype, rows, context) +
         static_cast<size_t>(rows) * static_cast<size_t>(width) * 2 * sizeof(float);
}

// What drafts are drawn from need not be exact: the unlikely, which would hardly stand, are left
// out before anything is computed of them.
Sampling for_drafts(Sampling sampling) {
  constexpr double kLeast = 0.001;
  sampling.top_p = 1;
  sampling.min_p = std::max(sampling.min_p, kLeast);
  return sampling;
}

int64_t most_rows(const Generator::Options& options) {
  return options.draft == 0 ? options.prefill_rows
                            : std::max(options.prefill_rows, Drafter::kMostRows);
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
double Generation::decode_rate() const { return rate(decoded, decode_seconds); }

// What is being written: all tokens, those of the answer, and why it ended.
struct Generator::Text {
  std::vector<int32_t> tokens;
  std::vector<int32_t> drafts;  // of the next step
  Sampler sampler, draft_sampler;
  int64_t most;  // tokens of the answer
  const OnToken& on_token;
  Generation out;
  bool ended = false;

  void end(Stop why) {
    out.stop = why;
    ended = true;
  }
};

Generator::Generator(model::Transformer& model, Options options)
    : model_(model),
      options_(std::move(options)),
      cache_(model.config(), model.precision(),
             model.config().num_hidden_layers + (model.has_mtp() && options_.draft != 0 ? 1 : 0),
             options_.context > 0 ? options_.context : model.config().max_position_embeddings),
      saved_(arena_bytes(model.config(), activation(model), most_rows(options_), 1)),
      scratch_(arena_bytes(model.config(), activation(model), most_rows(options_), cache_.limit())),
      hidden_MD_(activation(model), {most_rows(options_), model.config().hidden_size}),
      logits_MV_(DType::kF32, {DraftWidth::kMost + 1, model.config().vocab_size}) {
  MINKE_CHECK(options_.prefill_rows > 0 && options_.draft >= kAutoDraft &&
              options_.draft <= DraftWidth::kMost);
  const int64_t most = model.config().vocab_size;
  if (options_.vocabulary == 0) options_.vocabulary = most;
  if (options_.vocabulary > most) {
    fail("the tokenizer has {} tokens, the model {}: they do not belong together",
         options_.vocabulary, most);
  }
  check_draft(options_.draft, model.has_mtp());
  if (options_.draft != 0 && model.has_mtp()) drafter_.emplace(model, cache_);
}

void Generator::check_draft(int64_t draft, bool has_mtp) {
  if (draft > 0 && !has_mtp) {
    fail("{} tokens are to be drafted, and this model has no MTP layer to draft them: give 0",
         draft);
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
  auto length = static_cast<int64_t>(common);
  if (drafter_) length = drafter_->truncate(length);
  cache_.truncate(length);
  cached_.resize(static_cast<size_t>(length));
  return length;
}

Tensor Generator::step(std::span<const int32_t> tokens, int64_t logit_rows) {
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t states =
      drafter_ || options_.unread_rows ? count : std::max<int64_t>(logit_rows, 1);
  const Arena::Scope saved(saved_), scratch(scratch_);
  const Tensor hidden_AD = hidden_MD_.rows(0, states);
  model_.decode(hidden_AD, tokens, cache_.next_rows(count), pass());
  cache_.advance(count);
  cached_.insert(cached_.end(), tokens.begin(), tokens.end());
  if (logit_rows > 0) {
    model_.logits(logits_MV_.rows(0, logit_rows), hidden_AD.rows(states - logit_rows, logit_rows),
                  pass());
  }
  return hidden_AD;
}

// False when it was stopped.
bool Generator::prefill(Text& text, const ShouldStop& should_stop) {
  const auto start = Clock::now();
  const bool read_now = options_.draft > 0 || width_.pays();
  const auto length = static_cast<int64_t>(text.tokens.size());
  for (int64_t at = text.out.reused; at < length;) {
    if (should_stop()) return false;
    const int64_t rows = std::min(options_.prefill_rows, length - at);
    const std::span<const int32_t> prompt = text.tokens;
    const Tensor states = step(prompt.subspan(static_cast<size_t>(at), static_cast<size_t>(rows)),
                               at + rows == length ? 1 : 0);
    if (drafter_) drafter_->see(prompt, states, read_now, pass());
    at += rows;
    text.out.prefill += rows;
    text.out.prefill_seconds = seconds_since(start);
  }
  return true;
}

int64_t Generator::draw(Text& text, int64_t rows) {
  for (int64_t row = 0;; ++row) {
    const auto position = static_cast<int64_t>(text.tokens.size());
    const int32_t token = text.sampler.sample(logits_MV_[row].span<float>(), position);
    if (std::ranges::count(options_.end_tokens, token) > 0) {
      text.end(Stop::kEnd);
      return row + 1;
    }
    text.tokens.push_back(token);
    text.out.tokens.push_back(token);
    text.on_token(token);
    if (std::ssize(text.out.tokens) == text.most) {
      text.end(Stop::kMaxTokens);
    } else if (position + 1 == context()) {
      text.end(Stop::kContext);
    }
    if (text.ended || row + 1 == rows || text.drafts[static_cast<size_t>(row)] != token) {
      return row + 1;
    }
  }
}

// No more than the text may still hold: the step gives one token besides.
int64_t Generator::draft_width(const Text& text) const {
  if (!drafter_) return 0;
  const int64_t room =
      std::min(text.most - std::ssize(text.out.tokens), context() - std::ssize(text.tokens)) - 1;
  const int64_t most = std::min(room, DraftWidth::kMost);
  if (options_.draft > 0) return std::min(options_.draft, most);
  // A row of the module takes about as long as one of a layer does in the prefill.
  const Generation& g = text.out;
  const double rows_a_second =
      rate(g.prefill, g.prefill_seconds) * static_cast<double>(model_.config().num_hidden_layers);
  const auto behind = static_cast<double>(drafter_->behind());
  return width_.next(most, rows_a_second > 0 ? behind / rows_a_second : 0);
}

void Generator::decode_step(Text& text) {
  const int64_t width = draft_width(text);
  if (width > 0 && drafter_->behind() > DraftWidth::kMost + 1) {
    const auto start = Clock::now();
    drafter_->catch_up(text.tokens, pass());
    width_.record_extra(seconds_since(start));
  }
  const auto start = Clock::now();
  text.drafts.clear();
  if (width > 0) text.drafts = drafter_->draft(text.tokens, width, text.draft_sampler, pass());
  std::vector<int32_t> rows = {text.tokens.back()};
  rows.insert(rows.end(), text.drafts.begin(), text.drafts.end());
  const Tensor states = step(rows, width + 1);
  const auto before = std::ssize(text.out.tokens);
  const int64_t stood = draw(text, width + 1) - 1;

  const int64_t kept = cache_.length() - (width - stood);
  cache_.truncate(kept);
  cached_.resize(static_cast<size_t>(kept));
  if (drafter_) drafter_->see(text.tokens, states.rows(0, stood + 1), false, pass());
  width_.record(width, stood, seconds_since(start));
  Generation& out = text.out;
  ++out.steps;
  out.decoded += std::ssize(out.tokens) - before;
  out.drafts.resize(std::max(out.drafts.size(), static_cast<size_t>(width)));
  for (int64_t i = 0; i < width; ++i) {
    ++out.drafts[static_cast<size_t>(i)].made;
    if (i < stood) ++out.drafts[static_cast<size_t>(i)].accepted;
  }
}

Generation Generator::generate(std::span<const int32_t> prompt, const Sampling& sampling,
                               int64_t max_tokens, const OnToken& on_token,
                               const ShouldStop& should_stop) {
  if (max_tokens < 1) fail("max-tokens {}: must be 1 or more", max_tokens);
  check_prompt(prompt);
  Text text{{prompt.begin(), prompt.end()},
            {},
            Sampler(sampling, options_.vocabulary, options_.holes),
            Sampler(for_drafts(sampling), options_.vocabulary, options_.holes),
            max_tokens,
            on_token,
            {}};
  text.out.reused = keep_common(prompt);
  if (!prefill(text, should_stop)) {
    text.end(Stop::kInterrupted);
    return text.out;
  }
  const auto start = Clock::now();
  draw(text, 1);
  while (!text.ended) {
    if (should_stop()) {
      text.end(Stop::kInterrupted);
    } else {
      decode_step(text);
    }
    text.out.decode_seconds = seconds_since(start);
  }
  return text.out;
}

}  // namespace minke::infer

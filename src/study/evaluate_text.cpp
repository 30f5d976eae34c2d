#include "study/evaluate_text.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "model/memory.h"
#include "train/state.h"
#include "train/tokenizer.h"

namespace minke::study {
namespace {

// A model that was not trained here does not say how long its texts were: DeepSeek-V3 was
// pre-trained on 4,096 tokens.
constexpr int64_t kDefaultWindow = 4096;
// What is computed at once takes memory.
constexpr int64_t kTokensAtOnce = 4096, kWindowsAtOnce = 8;

}  // namespace

EvalWindow eval_window(const fs::path& folder, const model::ModelConfig& config, int64_t asked) {
  const int64_t most = config.max_position_embeddings;
  if (most < 2)
    fail("max_position_embeddings {}: no token has one before it to be predicted from", most);
  if (asked > most) fail("--seq {}: the model's max_position_embeddings is {}", asked, most);
  if (asked > 0) return {asked / 2 * 2, asked % 2 == 0 ? "--seq" : "--seq, made even"};
  if (const auto trained = train::trained_length(folder)) {
    return {*trained / 2 * 2, "as it was trained"};
  }
  return {
      std::min(kDefaultWindow, most) / 2 * 2,
      most < kDefaultWindow ? "max_position_embeddings; --seq sets another" : "--seq sets another"};
}

train::HeldOut held_out_text(const fs::path& folder, const model::ModelConfig& config,
                             const text::Tokenizer& tokenizer, const std::vector<std::string>& data,
                             const std::string& text_field) {
  if (tokenizer.vocabulary() > config.vocab_size) {
    fail("{}: the tokenizer has {} tokens, the model {}", folder.string(), tokenizer.vocabulary(),
         config.vocab_size);
  }
  const TemporaryFolder standard_input;
  return train::held_out(train::find_sources(data, standard_input.path()), text_field,
                         train::encoder_of(tokenizer));
}

train::Evaluation evaluate_text(
    const infer::LoadedModel& loaded, model::Precision precision, const text::Tokenizer& tokenizer,
    const train::HeldOut& text, int64_t window,
    const std::function<void(int64_t position, int32_t id, float loss)>& on_token) {
  train::EvalOptions how;
  how.window = window;
  how.sequences = std::clamp(kTokensAtOnce / window, int64_t{1}, kWindowsAtOnce);
  how.on_token = on_token;
  const model::StepMemory memory =
      model::step_memory(loaded.config.model, precision, how.sequences, window);
  Arena saved(memory.saved_space()), scratch(memory.scratch_space());
  const std::vector<int32_t>& tokens = text.tokens;
  Progress progress("evaluating", tokens.size());
  uint64_t shown = 0;
  how.on_progress = [&](double share) {
    stop_if_interrupted();
    const auto now = static_cast<uint64_t>(share * static_cast<double>(tokens.size()));
    progress.add(now - std::exchange(shown, now));
  };
  return train::evaluate(*loaded.model, text, train::encoder_of(tokenizer).bytes_of, how,
                         {precision, saved, scratch});
}

}  // namespace minke::study

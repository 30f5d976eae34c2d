// Every setting of a training run. One visit_fields drives the command line, the file of flags, the
// manifest and what a resumed run is compared with.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "model/linear.h"

namespace minke {

constexpr auto names(ScaleFormat) {
  return std::array{Name{"fp32", ScaleFormat::kF32}, Name{"ue8m0", ScaleFormat::kPowerOfTwo}};
}

namespace train {

// What activations that a weight's gradient reads are quantised from.
enum class Fp8Wgrad { kBoth, kRequantised };
constexpr auto names(Fp8Wgrad) {
  return std::array{Name{"both", Fp8Wgrad::kBoth}, Name{"requantised", Fp8Wgrad::kRequantised}};
}
enum class Accumulate { kF32, kTensorCore };
constexpr auto names(Accumulate) {
  return std::array{Name{"fp32", Accumulate::kF32}, Name{"tensor-core", Accumulate::kTensorCore}};
}
enum class MomentFormat { kF32, kBF16, kBF16Random };
constexpr auto names(MomentFormat) {
  return std::array{Name{"fp32", MomentFormat::kF32}, Name{"bf16", MomentFormat::kBF16},
                    Name{"bf16-random", MomentFormat::kBF16Random}};
}
enum class OnSpike { kNone, kSkip, kStop, kRollback };
constexpr auto names(OnSpike) {
  return std::array{Name{"none", OnSpike::kNone}, Name{"skip", OnSpike::kSkip},
                    Name{"stop", OnSpike::kStop}, Name{"rollback", OnSpike::kRollback}};
}
enum class SaveFormat { kBF16, kFp8 };
constexpr auto names(SaveFormat) {
  return std::array{Name{"bf16", SaveFormat::kBF16}, Name{"fp8", SaveFormat::kFp8}};
}

struct Options {
  // What to learn from.
  std::vector<std::string> data;
  std::vector<std::string> valid_data;
  double valid_fraction = 0.05;
  std::string text_field = "text";
  // What learns.
  std::string size = "tiny";
  std::string model;
  std::string init;
  bool init_ema = false;
  std::string extend_context;
  bool allow_extra = false;
  std::string tokenizer;
  int64_t vocab = 4096;
  model::Precision precision = model::Precision::kBF16;
  ScaleFormat fp8_scales = ScaleFormat::kF32;
  Fp8Wgrad fp8_wgrad = Fp8Wgrad::kBoth;
  Accumulate accumulate = Accumulate::kF32;
  int64_t promote = 128;
  // How long, and in what portions.
  int64_t steps = 0;
  double minutes = 0;
  int64_t batch = 16;
  int64_t batch_start = 0;
  double batch_ramp = 0;
  int64_t micro_batch = 0;
  int64_t seq = 256;
  bool mask_documents = false;
  double fim = 0;
  double split_punctuation = 0;
  // The recipe.
  uint64_t seed = 1;
  uint64_t data_seed = 0;
  double lr = 3e-3;
  double min_lr = 0;
  int64_t warmup = -1;
  double constant = 0;
  double hold = 0;
  double final_part = 0;
  double final_lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  MomentFormat moments = MomentFormat::kF32;
  double weight_decay = 0.1;
  std::vector<std::string> no_decay;
  double clip = 1.0;
  double mtp_lambda = 0.3;
  double mtp_lambda_until = 1;
  double mtp_lambda_later = 0.1;
  double alpha = 1e-4;
  double gamma = 1e-3;
  double gamma_until = 1;
  double ema = 0;
  OnSpike on_spike = OnSpike::kNone;
  double spike_z = 6;
  // What is written meanwhile.
  int64_t eval_every = 0;
  int64_t sample_every = 0;
  int64_t save_every = 0;
  int64_t keep_last = 0;
  int64_t keep_every = 0;
  bool keep_best = false;
  SaveFormat save_format = SaveFormat::kBF16;
  int64_t stop_at = 0;
  int64_t shadow_bf16 = 0;
  bool tensorboard = false;
  std::string sample_prompt;
  // What it costs.
  model::Recompute recompute = model::Recompute::kNone;

  friend bool operator==(const Options&, const Options&) = default;
};

// What a setting may change between a run and its continuation.
enum class Scope {
  kRun,  // fixed at the start: another value would be another run
  kFree  // when to look, save or stop: the run's own, unless another is given when it goes on
};

struct Range {
  double low, high;
};

// Calls visit(flag, field, scope, help) for every setting, in the order of the help text; with its
// Range behind these, where it has one.
template <typename Opt, typename Visit>
void visit_fields(Opt& o, Visit&& visit) {
  using enum Scope;
  const auto batch = static_cast<double>(o.batch);
  visit("data", o.data, kRun,
        "Text to learn from: files, folders, globs or - ; .txt (a file is a document) or .jsonl "
        "(a line is; one with \"messages\" is a conversation, of which the assistant's words are "
        "learned), also .gz and .zst");
  visit("valid", o.valid_data, kRun, "Held-out text; without it, a fraction of --data");
  visit(
      "valid-fraction", o.valid_fraction, kRun,
      "Share of --data to hold out where --valid is not given: documents, and the end of one where "
      "these are too large (0: nothing, and nothing is evaluated)",
      Range{0, 0.5});
  visit("text-field", o.text_field, kRun, "The field of a .jsonl line that holds the text");
  visit("size", o.size, kRun, "A model that comes with minke: nano, tiny or small");
  visit("model", o.model, kRun, "A config.json to train instead of --size");
  visit("init", o.init, kRun,
        "A model to go on from, with its config and tokenizer: any folder that `minke generate` "
        "reads, or a run; instead of --size and --model");
  visit("init-ema", o.init_ema, kRun,
        "With --init: from its weights averaged over training, where `train --ema` kept them");
  visit("extend-context", o.extend_context, kRun,
        "With --init: a context so many times as long, such as 4x, by YaRN, which the config then "
        "says; to be learned at a longer --seq (V3: 1000 steps at its last learning rate)");
  visit("allow-extra", o.allow_extra, kRun,
        "Take a model to --init from with tensors that the architecture does not name: they are "
        "listed, and every checkpoint carries them as they are");
  visit("tokenizer", o.tokenizer, kRun,
        "A folder with tokenizer.json or tiktoken.model; without it, one is trained on what is not "
        "held out of --data");
  visit("vocab", o.vocab, kRun, "Vocabulary of a tokenizer trained here, which --size then takes");
  visit("precision", o.precision, kRun,
        "bf16, fp8 (as bf16, with the products of linear layers in E4M3: less memory and the "
        "numbers of "
        "DeepSeek-V3, not more speed) or fp32; master weights are FP32");
  visit("fp8-scales", o.fp8_scales, kRun, "--precision fp8: fp32 scales, or ue8m0 (powers of two)");
  visit("fp8-wgrad", o.fp8_wgrad, kRun,
        "--precision fp8: activations that a weight's gradient reads are quantised from what "
        "fprop's were made of (both), or from fprop's codes (requantised)");
  visit("accumulate", o.accumulate, kRun,
        "--precision fp8: sums of its products in fp32, or as NVIDIA's Hopper adds them up "
        "(tensor-core: 14 bits, emulated number by number, hundreds of times slower)");
  visit("promote", o.promote, kRun,
        "--accumulate tensor-core: numbers of a sum after which it goes to FP32, a multiple of 32 "
        "(0: never; 128 is DeepSeek-V3's)");
  visit("steps", o.steps, kRun, "Optimizer steps in all", Range{0, 1e9});
  visit("minutes", o.minutes, kRun,
        "Instead of --steps: as many as a short timing says fit, and 10 at least; then fixed and "
        "printed",
        Range{0, 1e6});
  visit("batch", o.batch, kRun, "Sequences a step", Range{1, 1 << 20});
  visit("batch-start", o.batch_start, kRun,
        "Sequences of the first step, from which the batch grows to --batch (0: it does not)",
        Range{0, batch});
  visit("batch-ramp", o.batch_ramp, kRun, "Share of the run's tokens over which the batch grows",
        Range{0, 1});
  visit("micro-batch", o.micro_batch, kRun,
        "Sequences computed at once; gradients are accumulated to a step (0: --batch)",
        Range{0, batch});
  visit("seq", o.seq, kRun, "Tokens a sequence", Range{2, 1 << 20});
  visit("mask-documents", o.mask_documents, kRun, "Attention stays within a document");
  visit("fim", o.fim, kRun,
        "Share of the documents, others in each epoch, that are to be filled in the middle: prefix "
        "and suffix between the tokenizer's tokens for it, then what was between them (V3: 0.1)",
        Range{0, 1});
  visit("split-punctuation", o.split_punctuation, kRun,
        "Share of the tokens which join punctuation and line breaks that are read as one of each, "
        "others in each epoch, so that the model also knows texts which end between the two",
        Range{0, 1});
  visit("seed", o.seed, kRun, "Seed of weights and of the order of data");
  visit("data-seed", o.data_seed, kRun, "Another seed for the order of data (0: --seed)");
  visit("lr", o.lr, kRun, "Peak learning rate", Range{0, 10});
  visit(
      "min-lr", o.min_lr, kRun,
      "Learning rate at the end of the cosine (0, where that is the end of the run: the last step "
      "moves nothing)",
      Range{0, o.lr});
  visit("warmup", o.warmup, kRun,
        "Steps of linear warm-up (-1: 50, or a fifth of the run where that is less; the most that "
        "a run of so many --minutes takes, too)",
        Range{-1, 1e9});
  visit("constant", o.constant, kRun,
        "Share of the tokens after warm-up at the peak, before the cosine to --min-lr",
        Range{0, 1});
  visit("hold", o.hold, kRun, "Share of the tokens after warm-up at --min-lr, behind the cosine",
        Range{0, 1});
  visit("final", o.final_part, kRun, "Share of the tokens after warm-up, the last, at --final-lr",
        Range{0, 1});
  visit("final-lr", o.final_lr, kRun, "Learning rate of that part", Range{0, o.lr});
  visit("beta1", o.beta1, kRun, "AdamW: decay of the mean gradient", Range{0, 0.99999});
  visit("beta2", o.beta2, kRun, "AdamW: decay of the mean squared gradient", Range{0, 0.9999999});
  visit("eps", o.eps, kRun, "AdamW: added to the root of the mean square", Range{1e-30, 1});
  visit("moments", o.moments, kRun,
        "What AdamW's two moments are kept in: fp32, bf16 (rounded to nearest) or bf16-random "
        "(right in the mean: for a --beta2 near 1)");
  visit("weight-decay", o.weight_decay, kRun, "AdamW: decay of all weights but norms and biases",
        Range{0, 10});
  visit("no-decay", o.no_decay, kRun,
        "What else is not decayed, of: embedding, head, router (the gates of experts)");
  visit("clip", o.clip, kRun, "Largest norm of the whole gradient (0: no clipping)", Range{0, 1e9});
  visit("mtp-lambda", o.mtp_lambda, kRun, "Weight of the multi-token prediction losses",
        Range{0, 10});
  visit("mtp-lambda-until", o.mtp_lambda_until, kRun,
        "Share of the run's tokens after which that weight is --mtp-lambda-later", Range{0, 1});
  visit("mtp-lambda-later", o.mtp_lambda_later, kRun, "See --mtp-lambda-until", Range{0, 10});
  visit("alpha", o.alpha, kRun, "Weight of the sequence-wise balance loss", Range{0, 10});
  visit("gamma", o.gamma, kRun, "Speed of the routers' bias update", Range{0, 1});
  visit("gamma-until", o.gamma_until, kRun, "Share of the run's tokens after which that speed is 0",
        Range{0, 1});
  visit("ema", o.ema, kRun,
        "Keep averaged weights beside the others: what is left of an average after a step, such "
        "as 0.999 (0: none). `minke eval --ema` and the others read them",
        Range{0, 0.9999999});
  visit(
      "on-spike", o.on_spike, kFree,
      "What is done where loss or gradient jumps, or is not finite: none (then what is not finite "
      "ends the run), skip (the step changes nothing), stop (and save), rollback (to the last "
      "checkpoint, and on with the text after the jump)");
  visit("spike-z", o.spike_z, kFree,
        "A jump is so many standard deviations above the last 128 steps", Range{0.1, 1e6});
  visit("eval-every", o.eval_every, kFree, "Steps between evaluations (0: a tenth of the run)",
        Range{0, 1e9});
  visit("sample-every", o.sample_every, kFree, "Steps between samples (0: a fifth of the run)",
        Range{0, 1e9});
  visit("save-every", o.save_every, kFree, "Steps between checkpoints (0: a fifth of the run)",
        Range{0, 1e9});
  visit("keep-last", o.keep_last, kFree,
        "Earlier checkpoints that are kept in checkpoints/, besides the last", Range{0, 1e6});
  visit("keep-every", o.keep_every, kFree,
        "Checkpoints that are kept there for good: of steps that are multiples of this",
        Range{0, 1e9});
  visit("keep-best", o.keep_best, kFree,
        "Keep in best/ the checkpoint that reads the held-out text best: by the 64 windows of it "
        "that are read during training, and at the last step");
  visit(
      "save-format", o.save_format, kRun,
      "Weights of checkpoints: bf16, or fp8 (linear layers in E4M3 with a scale for each block of "
      "128x128, as DeepSeek's files); what training goes on with is FP32 in either");
  visit("stop-at", o.stop_at, kFree,
        "Save and leave after this step (0: at the end, also of a run that goes on)",
        Range{0, 1e9});
  visit("shadow-bf16", o.shadow_bf16, kFree,
        "--precision fp8: every so many steps, the step's loss in BF16, too, beside its own (0: "
        "never)",
        Range{0, 1e9});
  visit("tensorboard", o.tensorboard, kFree,
        "Also write the metrics as TensorBoard's event files, into tensorboard/ of the run");
  visit("sample-prompt", o.sample_prompt, kFree, "What samples continue (default: nothing)");
  visit("recompute", o.recompute, kFree,
        "What a backward computes again instead of keeping it: none, paper (norms, MLA's "
        "up-projections, SwiGLU's output) or block; less memory, more time, the same bytes");
}

// Error naming the flag, for values that make no sense.
void check(const Options& options);
// Error for one of the flags `given` that does nothing beside the others.
void check_given(const Options& options, const std::set<std::string>& given);

ops::Fp8Recipe fp8_recipe_of(const Options& options);
// What AdamW's moments are kept in.
DType moments_of(const Options& options);

}  // namespace train
}  // namespace minke

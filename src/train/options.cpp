#include "train/options.h"

#include "base/error.h"
#include "text/bpe_trainer.h"
#include "train/context.h"

namespace minke::train {
namespace {

void check_range(const char* flag, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    fail("--{} {}: expected a number from {} to {}", flag, value, low, high);
  }
}

}  // namespace

void check(const Options& o) {
  if (o.data.empty()) fail("--data is missing: which text shall the model learn from?");
  if (!o.init.empty() && !o.model.empty()) {
    fail("--init brings its own config; leave --model away");
  }
  if (o.init_ema && o.init.empty()) fail("--init-ema: of which model? name one with --init");
  if (context_factor_of(o) && o.init.empty()) {
    fail("--extend-context {}: of which model? name one with --init", o.extend_context);
  }
  if (o.steps <= 0 && o.minutes <= 0) fail("give --steps N or --minutes M: how long to train");
  if (o.steps > 0 && o.minutes > 0) fail("--steps and --minutes exclude each other; give one");
  precision_of(o);
  fp8_recipe_of(o);
  recompute_of(o);
  moments_of(o);
  if (o.tokenizer.empty() && o.init.empty()) {
    const auto least = static_cast<double>(text::least_vocabulary());
    check_range("vocab", static_cast<double>(o.vocab), least, text::kLargestVocabulary);
  }
  check_range("valid-fraction", o.valid_fraction, 0, 0.5);
  check_range("steps", static_cast<double>(o.steps), 0, 1e9);
  check_range("minutes", o.minutes, 0, 1e6);
  check_range("batch", static_cast<double>(o.batch), 1, 1 << 20);
  check_range("batch-start", static_cast<double>(o.batch_start), 0, static_cast<double>(o.batch));
  check_range("batch-ramp", o.batch_ramp, 0, 1);
  if ((o.batch_start > 0) != (o.batch_ramp > 0)) {
    fail("--batch-start and --batch-ramp say together how the batch grows; give both or neither");
  }
  check_range("micro-batch", static_cast<double>(o.micro_batch), 0, static_cast<double>(o.batch));
  check_range("seq", static_cast<double>(o.seq), 2, 1 << 20);
  check_range("fim", o.fim, 0, 1);
  check_range("split-punctuation", o.split_punctuation, 0, 1);
  check_range("lr", o.lr, 0, 10);
  check_range("min-lr", o.min_lr, 0, o.lr);
  check_range("warmup", static_cast<double>(o.warmup), -1, 1e9);
  check_range("constant", o.constant, 0, 1);
  check_range("hold", o.hold, 0, 1);
  check_range("final", o.final_part, 0, 1);
  // Shares such as 0.9 and 0.1 may add up to a rounding more.
  if (o.constant + o.hold + o.final_part > 1 + 1e-12) {
    fail("--constant {}, --hold {}, --final {}: shares of the tokens, expected at most 1 in all",
         o.constant, o.hold, o.final_part);
  }
  check_range("final-lr", o.final_lr, 0, o.lr);
  check_range("beta1", o.beta1, 0, 0.99999);
  check_range("beta2", o.beta2, 0, 0.9999999);
  check_range("eps", o.eps, 1e-30, 1);
  check_range("weight-decay", o.weight_decay, 0, 10);
  for (const std::string& what : o.no_decay) {
    if (what != "embedding" && what != "head" && what != "router") {
      fail("--no-decay {}: expected embedding, head or router", what);
    }
  }
  check_range("clip", o.clip, 0, 1e9);
  check_range("mtp-lambda", o.mtp_lambda, 0, 10);
  check_range("mtp-lambda-until", o.mtp_lambda_until, 0, 1);
  check_range("mtp-lambda-later", o.mtp_lambda_later, 0, 10);
  check_range("alpha", o.alpha, 0, 10);
  check_range("gamma", o.gamma, 0, 1);
  check_range("gamma-until", o.gamma_until, 0, 1);
  check_range("ema", o.ema, 0, 0.9999999);
  if (o.on_spike != "none" && o.on_spike != "skip" && o.on_spike != "stop" &&
      o.on_spike != "rollback") {
    fail("--on-spike {}: expected none, skip, stop or rollback", o.on_spike);
  }
  if (o.save_format != "bf16" && o.save_format != "fp8") {
    fail("--save-format {}: expected bf16 or fp8", o.save_format);
  }
  check_range("spike-z", o.spike_z, 0.1, 1e6);
  check_range("eval-every", static_cast<double>(o.eval_every), 0, 1e9);
  check_range("sample-every", static_cast<double>(o.sample_every), 0, 1e9);
  check_range("save-every", static_cast<double>(o.save_every), 0, 1e9);
  check_range("shadow-bf16", static_cast<double>(o.shadow_bf16), 0, 1e9);
  if (o.shadow_bf16 > 0 && o.precision != "fp8") {
    fail("--shadow-bf16 compares with --precision fp8, and this run is {}", o.precision);
  }
  if (o.keep_best && o.valid_data.empty() && o.valid_fraction == 0) {
    fail("--keep-best reads held-out text; give --valid, or a --valid-fraction above 0");
  }
  check_range("keep-last", static_cast<double>(o.keep_last), 0, 1e6);
  check_range("keep-every", static_cast<double>(o.keep_every), 0, 1e9);
  check_range("stop-at", static_cast<double>(o.stop_at), 0, 1e9);
}

void check_given(const Options& o, const std::set<std::string>& given) {
  struct Idle {
    const char* flag;
    bool idle;
    const char* why;
  };
  const bool fp8 = o.precision == "fp8";
  const Idle all[] = {
      {"valid-fraction", !o.valid_data.empty(), "with --valid"},
      {"size", !o.model.empty(), "with --model"},
      {"size", !o.init.empty(), "with --init"},
      {"allow-extra", o.init.empty(), "without --init"},
      {"vocab", !o.tokenizer.empty(), "with --tokenizer"},
      {"vocab", !o.init.empty(), "with --init, which brings its tokenizer"},
      {"fp8-scales", !fp8 && o.save_format != "fp8",
       "without --precision fp8 or --save-format fp8"},
      {"fp8-wgrad", !fp8, "without --precision fp8"},
      {"accumulate", !fp8, "without --precision fp8"},
      {"promote", o.accumulate != "tensor-core", "without --accumulate tensor-core"},
      {"final-lr", o.final_part == 0, "without --final"},
      {"mtp-lambda-later", o.mtp_lambda_until == 1, "without --mtp-lambda-until"},
      {"spike-z", o.on_spike == "none", "without --on-spike"},
  };
  for (const Idle& it : all) {
    if (it.idle && given.contains(it.flag)) {
      fail("--{} does nothing {}; leave it away", it.flag, it.why);
    }
  }
}

model::Precision precision_of(const Options& o) {
  if (o.precision != "bf16" && o.precision != "fp32" && o.precision != "fp8") {
    fail("--precision {}: expected bf16, fp8 or fp32", o.precision);
  }
  return model::precision_named(o.precision);
}

ops::Fp8Recipe fp8_recipe_of(const Options& o) {
  if (o.fp8_scales != "fp32" && o.fp8_scales != "ue8m0") {
    fail("--fp8-scales {}: expected fp32 or ue8m0", o.fp8_scales);
  }
  if (o.fp8_wgrad != "both" && o.fp8_wgrad != "requantised") {
    fail("--fp8-wgrad {}: expected both or requantised", o.fp8_wgrad);
  }
  if (o.accumulate != "fp32" && o.accumulate != "tensor-core") {
    fail("--accumulate {}: expected fp32 or tensor-core", o.accumulate);
  }
  if (o.promote < 0 || o.promote % 32 != 0) {
    fail("--promote {}: expected a multiple of 32, or 0", o.promote);
  }
  return {o.fp8_scales == "fp32" ? ScaleFormat::kF32 : ScaleFormat::kPowerOfTwo,
          o.fp8_wgrad == "requantised",
          o.accumulate == "fp32" ? ops::Fp8Recipe::kFp32Sums : o.promote};
}

DType moments_of(const Options& o) {
  if (o.moments == "fp32") return DType::kF32;
  if (o.moments == "bf16" || o.moments == "bf16-random") return DType::kBF16;
  fail("--moments {}: expected fp32, bf16 or bf16-random", o.moments);
}

model::Recompute recompute_of(const Options& o) {
  if (o.recompute == "none") return model::Recompute::kNone;
  if (o.recompute == "paper") return model::Recompute::kPaper;
  if (o.recompute == "block") return model::Recompute::kBlock;
  fail("--recompute {}: expected none, paper or block", o.recompute);
}

}  // namespace minke::train

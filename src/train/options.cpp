#include "train/options.h"

#include "base/error.h"
#include "text/bpe_trainer.h"
#include "train/context.h"

namespace minke::train {
namespace {

void check_range(const char* flag, double value, Range range) {
  if (!(value >= range.low && value <= range.high)) {
    fail("--{} {}: expected a number from {} to {}", flag, value, range.low, range.high);
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
  visit_fields(o, [](const char* flag, const auto& value, Scope, const char*, auto... range) {
    if constexpr (sizeof...(range) == 1) check_range(flag, static_cast<double>(value), range...);
  });
  if (o.tokenizer.empty() && o.init.empty()) {
    const auto least = static_cast<double>(text::least_vocabulary());
    check_range("vocab", static_cast<double>(o.vocab), {least, text::kLargestVocabulary});
  }
  if ((o.batch_start > 0) != (o.batch_ramp > 0)) {
    fail("--batch-start and --batch-ramp say together how the batch grows; give both or neither");
  }
  // Shares such as 0.9 and 0.1 may add up to a rounding more.
  if (o.constant + o.hold + o.final_part > 1 + 1e-12) {
    fail("--constant {}, --hold {}, --final {}: shares of the tokens, expected at most 1 in all",
         o.constant, o.hold, o.final_part);
  }
  for (const std::string& what : o.no_decay) {
    if (what != "embedding" && what != "head" && what != "router") {
      fail("--no-decay {}: expected embedding, head or router", what);
    }
  }
  if (o.promote < 0 || o.promote % 32 != 0) {
    fail("--promote {}: expected a multiple of 32, or 0", o.promote);
  }
  if (o.shadow_bf16 > 0 && o.precision != model::Precision::kFp8) {
    fail("--shadow-bf16 compares with --precision fp8, and this run is {}", spelling(o.precision));
  }
  if (o.keep_best && o.valid_data.empty() && o.valid_fraction == 0) {
    fail("--keep-best reads held-out text; give --valid, or a --valid-fraction above 0");
  }
}

void check_given(const Options& o, const std::set<std::string>& given) {
  struct Idle {
    const char* flag;
    bool idle;
    const char* why;
  };
  const bool fp8 = o.precision == model::Precision::kFp8;
  const Idle all[] = {
      {"valid-fraction", !o.valid_data.empty(), "with --valid"},
      {"size", !o.model.empty(), "with --model"},
      {"size", !o.init.empty(), "with --init"},
      {"allow-extra", o.init.empty(), "without --init"},
      {"vocab", !o.tokenizer.empty(), "with --tokenizer"},
      {"vocab", !o.init.empty(), "with --init, which brings its tokenizer"},
      {"fp8-scales", !fp8 && o.save_format != SaveFormat::kFp8,
       "without --precision fp8 or --save-format fp8"},
      {"fp8-wgrad", !fp8, "without --precision fp8"},
      {"accumulate", !fp8, "without --precision fp8"},
      {"promote", o.accumulate != Accumulate::kTensorCore, "without --accumulate tensor-core"},
      {"final-lr", o.final_part == 0, "without --final"},
      {"mtp-lambda-later", o.mtp_lambda_until == 1, "without --mtp-lambda-until"},
      {"spike-z", o.on_spike == OnSpike::kNone, "without --on-spike"},
  };
  for (const Idle& it : all) {
    if (it.idle && given.contains(it.flag)) {
      fail("--{} does nothing {}; leave it away", it.flag, it.why);
    }
  }
}

ops::Fp8Recipe fp8_recipe_of(const Options& o) {
  return {o.fp8_scales, o.fp8_wgrad == Fp8Wgrad::kRequantised,
          o.accumulate == Accumulate::kF32 ? ops::Fp8Recipe::kFp32Sums : o.promote};
}

DType moments_of(const Options& o) {
  return o.moments == MomentFormat::kF32 ? DType::kF32 : DType::kBF16;
}

}  // namespace minke::train

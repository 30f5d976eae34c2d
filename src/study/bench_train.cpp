#include "study/bench_train.h"

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/rng.h"
#include "model/cost.h"
#include "model/memory.h"
#include "study/peak.h"
#include "train/trainer.h"

namespace minke::study {
namespace {

// Steps before any is timed: pages are touched, and the routers' loads settle a little.
constexpr int64_t kWarmUp = 3;

}  // namespace

TrainBench bench_train(const model::ModelConfig& config, train::Options options, int64_t steps,
                       const std::function<void(int64_t)>& on_step) {
  const auto precision = options.precision;
  const bool f32 = precision == model::Precision::kF32;
  const auto needed = train::step_memory(config, options);
  if (needed.total() > free_memory_bytes()) {
    fail("a step takes {} and {} are free", format_bytes(static_cast<double>(needed.total())),
         format_bytes(static_cast<double>(free_memory_bytes())));
  }
  options.steps = 1'000'000;
  options.lr = 1e-4;
  model::Transformer model(config, precision);
  model.set_fp8(fp8_recipe_of(options));
  model.initialize(options.seed);
  train::Trainer trainer(
      model, options, [&](int64_t row, std::span<int32_t> tokens, std::span<int32_t> documents) {
        Rng rng(stream_key(options.seed, static_cast<uint64_t>(row), "bench.tokens"));
        for (int32_t& t : tokens) {
          t = static_cast<int32_t>(rng.below(static_cast<uint64_t>(config.vocab_size)));
        }
        std::ranges::fill(documents, 0);
      });
  for (int64_t i = 0; i < kWarmUp; ++i) trainer.step();

  const Limit limit = f32 ? Limit::kComputeF32 : Limit::kComputeBF16;
  const double flops_per_token =
      model::train_flops_per_token(config, options.seq, config.num_nextn_predict_layers).total();
  TrainBench out;
  out.tokens = options.batch * options.seq;
  std::vector<double> seconds, peaks, shares;
  double before = peak_flops(limit);
  start_profile();
  for (int64_t i = 0; i < steps; ++i) {
    seconds.push_back(seconds_of([&] { out.max_vio = worst_max_vio(trainer.step().routers); }));
    const double after = peak_flops(limit);
    peaks.push_back((before + after) / 2);
    shares.push_back(static_cast<double>(out.tokens) * flops_per_token / seconds.back() /
                     peaks.back());
    before = after;
    if (on_step) on_step(i + 1);
  }
  out.ops = finish_profile();
  out.seconds = median(seconds);
  out.tokens_per_second = static_cast<double>(out.tokens) / out.seconds;
  out.flops = out.tokens_per_second * flops_per_token;
  out.peak = median(peaks);
  out.mfu = median(shares);
  return out;
}

}  // namespace minke::study

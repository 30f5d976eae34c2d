#include "study/reproduce_fp8.h"

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "ops/quantize.h"
#include "ops/tensor_core.h"
#include "ref/matmul.h"
#include "study/compare.h"
#include "train/metrics.h"
#include "train/run.h"

namespace minke::study {
namespace {

using Numbers = std::vector<double>;

double error_of(const Numbers& got, const Numbers& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

// The numbers in E4M3, in tiles of that shape.
Numbers quantized(const Tensor& x, TileShape tile) {
  const OwnedTensor codes(DType::kE4M3, x.shape()), out(DType::kF32, x.shape());
  const OwnedTensor scale(DType::kF32, scale_shape(x.shape(), tile));
  quantize_e4m3(codes, scale, x, tile, ScaleFormat::kF32);
  dequantize_e4m3(out, codes, scale, tile);
  return to_double(out);
}

// Normal numbers; of `spread` more than 0, tokens and channels differ in size as e^(spread z).
OwnedTensor activations(const char* name, int64_t T, int64_t C, double token_spread,
                        double channel_spread) {
  OwnedTensor out = random_tensor(name, DType::kF32, {T, C});
  Rng rng(stream_key(1, 0, fmt::format("{} sizes", name)));
  std::vector<double> token(static_cast<size_t>(T)), channel(static_cast<size_t>(C));
  for (double& v : token) v = std::exp(token_spread * rng.normal());
  for (double& v : channel) v = std::exp(channel_spread * rng.normal());
  for (int64_t i = 0; i < T * C; ++i) {
    out.data<float>()[i] *=
        static_cast<float>(token[static_cast<size_t>(i / C)] * channel[static_cast<size_t>(i % C)]);
  }
  return out;
}

constexpr int64_t kT = 256, kN = 256, kK = 512;

void add_tiles(std::vector<ProductError>& out) {
  // A few channels that are much larger than others, as activations have them.
  const OwnedTensor x = activations("x", kT, kK, 1, 2), w = activations("w", kN, kK, 0, 0);
  const Numbers exact_x = to_double(x), exact_w = to_double(w);
  Numbers want(kT * kN), got(kT * kN);
  ref::matmul<double>(want, exact_x, exact_w, kT, kN, kK);
  const auto with = [&](const char* how, TileShape tile) {
    ref::matmul<double>(got, quantized(x, tile), quantized(w, kBlock128x128), kT, kN, kK);
    out.push_back({"fprop", how, error_of(got, want)});
  };
  with("activations in tiles of 1x128", kTile1x128);
  with("activations in blocks of 128x128", kBlock128x128);
  with("activations with one scale", {kT, kK});

  // Gradients of tokens differ in size: appendix B.2.
  const OwnedTensor dy = activations("dy", kT, kN, 2, 0);
  Numbers want_dx(kT * kK);
  ref::matmul_dgrad<double>(want_dx, to_double(dy), exact_w, kT, kN, kK);
  const auto gradients_with = [&](const char* how, TileShape tile) {
    // The median token's error: one that is small must not be lost beside one that is large.
    Numbers dx(kT * kK);
    ref::matmul_dgrad<double>(dx, quantized(dy, tile), quantized(w, kBlock128x128), kT, kN, kK);
    Numbers errors;
    for (int64_t t = 0; t < kT; ++t) {
      const auto row = [&](const Numbers& of) {
        return Numbers(of.begin() + t * kK, of.begin() + (t + 1) * kK);
      };
      errors.push_back(error_of(row(dx), row(want_dx)));
    }
    std::ranges::sort(errors);
    out.push_back({"dgrad, the median token", how, errors[errors.size() / 2]});
    out.push_back({"dgrad, the worst token", how, errors.back()});
  };
  gradients_with("gradients in tiles of 1x128", kTile1x128);
  gradients_with("gradients in blocks of 128x128", kBlock128x128);
}

void add_wgrad(std::vector<ProductError>& out) {
  const OwnedTensor x = activations("x", kT, kK, 0, 0), dy = activations("dy", kT, kN, 0, 0);
  Numbers want(kN * kK);
  ref::matmul_wgrad<double>(want, to_double(dy), to_double(x), kT, kN, kK);
  Arena scratch(size_t{1} << 26);
  for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
    for (const bool requantized : {false, true}) {
      const OwnedTensor dw(DType::kF32, {kN, kK});
      const ops::WeightGradient product{dw, dy, x, false};
      ops::matmul_wgrad_fp8(std::span(&product, 1), {format, requantized}, scratch);
      out.push_back({"wgrad",
                     fmt::format("x {}, {} scales",
                                 requantized ? "requantised from 1x128" : "quantised both ways",
                                 format == ScaleFormat::kF32 ? "fp32" : "ue8m0"),
                     error_of(to_double(dw), want)});
    }
  }
}

// Sums whose terms have a mean, so that they grow.
void add_accumulation(std::vector<ProductError>& out) {
  constexpr int64_t kSum = 4096, kSums = 200;
  for (const int64_t promote : {int64_t{0}, int64_t{512}, int64_t{128}}) {
    Rng rng(stream_key(1, 0, "products"));
    Numbers want, got;
    for (int64_t s = 0; s < kSums; ++s) {
      std::vector<float> a, b;
      double exact = 0;
      for (int64_t i = 0; i < kSum; ++i) {
        for (auto* side : {&a, &b}) {
          side->push_back(
              e4m3_decode(e4m3_encode(static_cast<float>(std::abs(rng.normal()) * 100))));
        }
        exact += double{a.back()} * double{b.back()};
      }
      want.push_back(exact);
      got.push_back(double{ops::tensor_core_dot(a, b, promote)});
    }
    out.push_back({"sums of 4096 in 14 bits",
                   promote == 0 ? "never promoted" : fmt::format("promoted every {}", promote),
                   error_of(got, want)});
  }
}

std::vector<double> losses(const fs::path& run) {
  std::vector<double> out;
  train::read_metrics(run / "metrics.jsonl", [&](const nlohmann::json& event) {
    if (event["event"] == "step") out.push_back(event.at("loss").get<double>());
  });
  return out;
}

// A curve in a box of 800 x 300.
std::string curve(const std::vector<double>& y, double low, double high, const char* pen) {
  std::string points;
  for (size_t i = 0; i < y.size(); ++i) {
    const double across = 800.0 * static_cast<double>(i + 1) / static_cast<double>(y.size());
    points += fmt::format("{:.1f},{:.1f} ", across, 300 * (high - y[i]) / (high - low));
  }
  return fmt::format("<polyline fill='none' {} points='{}'/>\n", pen, points);
}

std::string table_row(const char* name, const LossDifference& d) {
  return fmt::format("<tr><td>{}<td>{:.3f}%<td>{:.3f}%<td>{:.3f}%<td>{:+.3f}%\n", name,
                     100 * d.smoothed, 100 * d.worst, 100 * d.raw, 100 * d.bias);
}

void write_page(const fs::path& path, const Fp8Runs& result, const std::vector<double>& bf16,
                const std::vector<double>& fp8, const std::vector<double>& other) {
  const auto percent = [](std::vector<double> of, const std::vector<double>& from) {
    for (size_t i = 0; i < of.size(); ++i) of[i] = 100 * (of[i] - from[i]) / from[i];
    return of;
  };
  const std::vector<double> raw = percent(fp8, bf16),
                            smooth = percent(smoothed(fp8), smoothed(bf16));
  const double high = std::ranges::max(bf16);
  double most = 0;
  for (const double v : raw) most = std::max(most, std::abs(v));
  const auto box = [](const std::string& title, const std::string& curves) {
    return fmt::format(
        "<h2>{}</h2>\n<svg viewBox='0 0 800 300' width='800' style='border:1px solid "
        "#999;overflow:hidden'>\n{}</svg>\n",
        title, curves);
  };
  write_file_atomic(
      path,
      fmt::format(
          "<!doctype html><meta charset='utf-8'><title>FP8 against BF16</title>\n"
          "<h1>FP8 against BF16</h1>\n<p>Relative differences of the loss from BF16's over the "
          "last half of {} steps. Smoothed: of both curves' exponential moving averages of {}, as "
          "in the V3 report, which has less than 0.25%.</p>\n<table cellpadding='6'>\n"
          "<tr><th><th>smoothed<th>its worst<th>each step's<th>with its sign\n{}{}</table>\n{}{}",
          bf16.size(), kLossSmoothing, table_row("FP8", result.fp8),
          table_row("BF16, another order of data", result.other_order),
          box(fmt::format("Loss, from 0 to {:.1f}: BF16 black, FP8 red, another order grey", high),
              curve(other, 0, high, "stroke='#bbb'") + curve(bf16, 0, high, "stroke='black'") +
                  curve(fp8, 0, high, "stroke='red'")),
          box(fmt::format("FP8 less BF16, smoothed and of each step, in percent: from {:.2f} to "
                          "{:.2f}",
                          -most, most),
              curve({0, 0}, -most, most, "stroke='#ccc'") +
                  curve(raw, -most, most, "stroke='red' opacity='0.3'") +
                  curve(smooth, -most, most, "stroke='red' stroke-width='2'"))));
}

}  // namespace

std::vector<ProductError> fp8_products() {
  std::vector<ProductError> out;
  add_tiles(out);
  add_wgrad(out);
  add_accumulation(out);
  return out;
}

std::vector<double> smoothed(const std::vector<double>& losses) {
  std::vector<double> out;
  double sum = 0, weight = 0;  // of what is remembered: it begins with nothing
  for (const double loss : losses) {
    sum = kLossSmoothing * sum + (1 - kLossSmoothing) * loss;
    weight = kLossSmoothing * weight + (1 - kLossSmoothing);
    out.push_back(sum / weight);
  }
  return out;
}

LossDifference loss_difference(const std::vector<double>& losses,
                               const std::vector<double>& other) {
  MINKE_CHECK(losses.size() == other.size() && !losses.empty());
  const std::vector<double> a = smoothed(losses), b = smoothed(other);
  const size_t begin = losses.size() / 2;
  const auto count = static_cast<double>(losses.size() - begin);
  LossDifference out;
  for (size_t i = begin; i < losses.size(); ++i) {
    const double smooth = std::abs(a[i] - b[i]) / b[i], raw = (losses[i] - other[i]) / other[i];
    out.smoothed += smooth / count;
    out.worst = std::max(out.worst, smooth);
    out.raw += std::abs(raw) / count;
    out.bias += raw / count;
  }
  return out;
}

Fp8Runs reproduce_fp8(train::Options options, const fs::path& out) {
  fs::create_directories(out);
  const auto run = [&](const char* name, model::Precision precision, bool other_order) {
    const fs::path folder = out / name;
    options.precision = precision;
    options.data_seed = other_order ? options.seed + 1 : 0;
    return fs::exists(folder / "manifest.json") ? train::resume_run(options, {}, folder).finished
                                                : train::start_run(options, folder).finished;
  };
  Fp8Runs result;
  using enum model::Precision;
  result.finished =
      run("bf16", kBF16, false) && run("fp8", kFp8, false) && run("other-order", kBF16, true);
  if (!result.finished) return result;
  const std::vector<double> bf16 = losses(out / "bf16"), fp8 = losses(out / "fp8"),
                            other = losses(out / "other-order");
  result.fp8 = loss_difference(fp8, bf16);
  result.other_order = loss_difference(other, bf16);
  write_page(out / "fp8.html", result, bf16, fp8, other);
  return result;
}

}  // namespace minke::study

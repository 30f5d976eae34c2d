// Rows by expert and back, embedding. u is the roundoff of FP32.
#include <fmt/format.h>

#include <cmath>

#include "base/rng.h"
#include "ops/embedding.h"
#include "ops/permute.h"
#include "ref/embedding.h"
#include "ref/permute.h"
#include "study/compare.h"

namespace minke::study {
namespace {

using Doubles = std::vector<double>;
constexpr double kU = kRoundoffF32;
constexpr DType kFormats[] = {DType::kF32, DType::kBF16};

struct Size {
  int64_t T, K, E, D;
  int64_t padding = 0;
};

std::string shape_name(const Size& size, std::string_view formats) {
  return fmt::format("{}x{} top-{} of {}{} {}", size.T, size.D, size.K, size.E,
                     size.padding > 0 ? " strided" : "", formats);
}

std::vector<int32_t> random_indices(std::string_view name, int64_t count, int64_t limit) {
  Rng rng(stream_key(1, 0, name));
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(limit))));
  }
  return out;
}

Doubles rounded(Doubles x, DType dtype) {
  if (dtype == DType::kBF16) {
    for (double& v : x) v = static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
  }
  return x;
}

Check compare_indices(std::string quantity, std::span<const int32_t> got,
                      std::span<const int32_t> want) {
  return compare_exactly(std::move(quantity), Doubles(got.begin(), got.end()),
                         Doubles(want.begin(), want.end()));
}

// Routes made at random, sorted by the op; what the runs below share.
struct Routes {
  explicit Routes(const Size& size)
      : experts(random_indices("experts", size.T * size.K, size.E)),
        offsets(static_cast<size_t>(size.E) + 1),
        token(DType::kI32, {size.T * size.K}),
        row(DType::kI32, {size.T, size.K}),
        order(ref::sort_by_expert(experts, size.T, size.K, size.E)) {
    std::ranges::copy(order.token, token.data<int32_t>());
    std::ranges::copy(order.row, row.data<int32_t>());
  }

  std::vector<int32_t> experts;
  std::vector<int64_t> offsets;
  OwnedTensor token, row;
  ref::ExpertOrder order;
};

class SortRun final : public OpRun {
 public:
  explicit SortRun(const Size& size) : size_(size), routes_(size) {}
  void run() override {
    const Tensor experts(routes_.experts.data(), {size_.T, size_.K});
    ops::sort_by_expert(routes_.offsets, routes_.token, routes_.row, experts);
  }
  std::vector<Check> check() override {
    const auto& order = routes_.order;
    return {compare_exactly("offsets", Doubles(routes_.offsets.begin(), routes_.offsets.end()),
                            Doubles(order.offsets.begin(), order.offsets.end())),
            compare_indices("token", routes_.token.span<int32_t>(), order.token),
            compare_indices("row", routes_.row.span<int32_t>(), order.row)};
  }
  std::vector<Tensor> outputs() override { return {routes_.token, routes_.row}; }

 private:
  Size size_;
  Routes routes_;
};

class GatherRun final : public OpRun {
 public:
  GatherRun(const Size& size, DType y, DType x)
      : size_(size),
        routes_(size),
        x_(PaddedMatrix::random("x", x, size.T, size.D, size.padding)),
        weights_(random_tensor("weights", DType::kF32, {size.T, size.K})),
        y_(y, size.T * size.K, size.D, size.padding),
        weights_R_(DType::kF32, {size.T * size.K}),
        back_(DType::kF32, {size.T, size.K}) {}
  void run() override {
    ops::gather_rows(y_, x_, routes_.token);
    ops::gather_weights(weights_R_, weights_, routes_.row);
    ops::scatter_weights(back_, weights_R_, routes_.row);
  }
  std::vector<Check> check() override {
    Doubles y(static_cast<size_t>(size_.T * size_.K * size_.D));
    ref::gather_rows<double>(y, to_double(x_), routes_.order.token, size_.D);
    const Doubles weights = to_double(weights_);
    Doubles weights_R(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) weights_R[routes_.order.row[i]] = weights[i];
    return {compare_exactly("y", ops::Matrix(y_), rounded(y, ops::Matrix(y_).dtype)),
            y_.padding_check("y"), compare_exactly("weights of rows", weights_R_, weights_R),
            compare_exactly("weights of tokens", back_, weights)};
  }
  std::vector<Tensor> outputs() override { return {y_.memory(), weights_R_, back_}; }

 private:
  Size size_;
  Routes routes_;
  PaddedMatrix x_;
  OwnedTensor weights_;
  PaddedMatrix y_;
  OwnedTensor weights_R_, back_;
};

class CombineRun final : public OpRun {
 public:
  CombineRun(const Size& size, DType y, DType x, bool accumulate)
      : size_(size),
        accumulate_(accumulate),
        routes_(size),
        x_(PaddedMatrix::random("x", x, size.T * size.K, size.D, size.padding)),
        before_(PaddedMatrix::random("y", y, size.T, size.D, size.padding)),
        y_(y, size.T, size.D, size.padding) {}
  void run() override {
    for (int64_t t = 0; accumulate_ && t < size_.T; ++t) {
      std::copy_n(ops::Matrix(before_).row<float>(t), size_.D, ops::Matrix(y_).row<float>(t));
    }
    ops::combine_rows(y_, accumulate_, x_, routes_.row);
  }
  std::vector<Check> check() override {
    const Doubles x = to_double(x_);
    Doubles y(static_cast<size_t>(size_.T * size_.D)), size(y.size()), bound, magnitude = x;
    for (double& v : magnitude) v = std::abs(v);
    ref::combine_rows<double>(y, x, routes_.order.row, size_.T, size_.K, size_.D);
    ref::combine_rows<double>(size, magnitude, routes_.order.row, size_.T, size_.K, size_.D);
    const Doubles before = to_double(before_);
    for (size_t i = 0; i < y.size(); ++i) {
      // K - 1 additions that round, and the one to what was there.
      if (accumulate_) y[i] += before[i];
      bound.push_back(static_cast<double>(size_.K) * kU * size[i] +
                      (kU + roundoff(ops::Matrix(y_).dtype)) * std::abs(y[i]));
    }
    return {compare("y", ops::Matrix(y_), y, bound), y_.padding_check("y")};
  }
  std::vector<Tensor> outputs() override { return {y_.memory()}; }

 private:
  Size size_;
  bool accumulate_;
  Routes routes_;
  PaddedMatrix x_, before_, y_;
};

class EmbeddingRun final : public OpRun {
 public:
  EmbeddingRun(const Size& size, DType w)
      : size_(size),
        tokens_(random_indices("tokens", size.T, size.E)),
        w_(random_tensor("w", w, {size.E, size.D})),
        x_(DType::kF32, size.T, size.D, size.padding) {}
  void run() override { ops::embedding(x_, w_, tokens_); }
  std::vector<Check> check() override {
    Doubles x(static_cast<size_t>(size_.T * size_.D));
    ref::embedding<double>(x, to_double(w_), tokens_, size_.D);
    return {compare_exactly("x", ops::Matrix(x_), x), x_.padding_check("x")};
  }
  std::vector<Tensor> outputs() override { return {x_.memory()}; }

 private:
  Size size_;
  std::vector<int32_t> tokens_;
  OwnedTensor w_;
  PaddedMatrix x_;
};

class EmbeddingBackwardRun final : public OpRun {
 public:
  EmbeddingBackwardRun(const Size& size, DType dx, bool bench)
      : size_(size),
        bench_(bench),
        tokens_(random_indices("tokens", size.T, size.E)),
        dx_(PaddedMatrix::random("dx", dx, size.T, size.D, size.padding)),
        before_(random_tensor("dw", DType::kF32, {size.E, size.D})),
        dw_(DType::kF32, {size.E, size.D}) {}
  void run() override {
    if (!bench_) std::ranges::copy(before_.span<float>(), dw_.data<float>());
    ops::embedding_backward(dw_, dx_, tokens_);
  }
  std::vector<Check> check() override {
    if (bench_) return {};
    const Doubles dx = to_double(dx_);
    Doubles dw = to_double(before_), size = dw, magnitude = dx;
    for (double& v : magnitude) v = std::abs(v);
    for (double& v : size) v = std::abs(v);
    ref::embedding_backward<double>(dw, dx, tokens_, size_.D);
    ref::embedding_backward<double>(size, magnitude, tokens_, size_.D);
    // One addition for each time that the token occurs, at most T.
    for (double& v : size) v *= static_cast<double>(size_.T) * kU;
    return {compare("dw", dw_, dw, size)};
  }
  std::vector<Tensor> outputs() override { return {dw_}; }

 private:
  Size size_;
  bool bench_;
  std::vector<int32_t> tokens_;
  PaddedMatrix dx_;
  OwnedTensor before_, dw_;
};

template <typename Run, typename... Args>
void add_case(OpCases& cases, const std::string& op, const Size& size, std::string_view formats,
              double bytes_a_number, double fresh_bytes, bool bench, Args... args) {
  const auto numbers = static_cast<double>(size.T * size.D);
  cases.push_back({.op = op,
                   .shape = shape_name(size, formats),
                   .limit = Limit::kMemory,
                   .work = numbers * bytes_a_number,
                   .fresh = numbers * fresh_bytes,
                   .bench = bench,
                   .make = [=] { return std::make_unique<Run>(size, args...); }});
}

void add_all(OpCases& cases, const Size& size, bool bench) {
  const auto K = static_cast<double>(size.K);
  const auto bytes = [](DType t) { return static_cast<double>(size_of(t)); };
  for (const DType y : kFormats) {
    for (const DType x : kFormats) {
      if (bench && x != y) continue;
      const std::string formats = fmt::format("{}<-{}", short_name(y), short_name(x));
      // A row is read again for each expert: by then no cache holds it.
      add_case<GatherRun>(cases, "gather_rows", size, formats, K * (bytes(x) + bytes(y)),
                          K * bytes(y), bench, y, x);
      add_case<CombineRun>(cases, "combine_rows", size, formats, K * bytes(x) + bytes(y), bytes(y),
                           bench, y, x, false);
      if (bench || y != DType::kF32) continue;
      add_case<CombineRun>(cases, "combine_rows", size, "+" + formats, K * bytes(x) + 8, 0, false,
                           y, x, true);
    }
    const std::string format(short_name(y));
    add_case<EmbeddingRun>(cases, "embedding", size, format, bytes(y) + 4, bytes(y), bench, y);
    add_case<EmbeddingBackwardRun>(cases, "embedding_backward", size, format, bytes(y) + 8, 0,
                                   bench, y, bench);
  }
}

}  // namespace

void add_permute_cases(OpCases& cases) {
  std::vector<Size> sizes{
      {0, 2, 3, 5}, {300, 3, 7, 67}, {40, 8, 64, 1111}, {3, 2, 4, 129, 5}, {5, 5, 7, 4500, 1}};
  for (int64_t D = 1; D <= 40; ++D) {
    sizes.push_back({.T = 5, .K = 1 + D % 3, .E = 3, .D = D, .padding = D % 3});
  }
  for (const Size& size : sizes) {
    add_case<SortRun>(cases, "sort_by_expert", size, "", 0, 0, false);
    add_all(cases, size, false);
  }
  add_all(cases, {8192, 2, 4096, 2048}, true);  // no cache holds the rows
}

}  // namespace minke::study

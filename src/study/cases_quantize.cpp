// Cases of quantisation, which must equal tensor/scales.h bit for bit, and of the weight gradient
// whose operands are quantised along the tokens.
//
// Bound of the latter: as in cases_matmul_fp8.cpp, from the numbers that the reference quantised.
#include <algorithm>
#include <cmath>

#include "ops/quantize.h"
#include "ref/matmul.h"
#include "study/compare.h"

namespace minke::study {
namespace {

std::string_view scales_name(ScaleFormat format) {
  return format == ScaleFormat::kF32 ? "f32 scales" : "ue8m0 scales";
}

// Codes and scales of a matrix as tensor/scales.h gives them, segment by segment of its columns.
struct Codes {
  OwnedTensor codes, scales;
};
OwnedTensor columns_of(const ops::Matrix& x, int64_t begin, int64_t count) {
  OwnedTensor out(DType::kF32, {x.rows, count});
  for (int64_t i = 0; i < x.rows * count; ++i) {
    const int64_t r = i / count, c = begin + i % count;
    out.data<float>()[i] =
        x.dtype == DType::kF32 ? x.row<float>(r)[c] : static_cast<float>(x.row<bf16>(r)[c]);
  }
  return out;
}
Codes quantized(const ops::Matrix& x, int64_t begin, int64_t count, TileShape tile,
                ScaleFormat format) {
  const OwnedTensor part = columns_of(x, begin, count);
  Codes out{OwnedTensor(DType::kE4M3, part.shape()),
            OwnedTensor(DType::kF32, scale_shape(part.shape(), tile))};
  quantize_e4m3(out.codes, out.scales, part, tile, format);
  return out;
}
uint8_t code_at(const Tensor& codes, int64_t i) {
  return static_cast<const uint8_t*>(codes.raw())[i];
}

struct RowsSpec {
  int64_t rows, cols, segment = 0, padding = 0;
  DType source = DType::kBF16;
  ScaleFormat format = ScaleFormat::kF32;
  double deviation = 1;
  bool bench = false;
};

// quantize_rows, quantize_left and dequantize_rows.
class RowsRun final : public OpRun {
 public:
  explicit RowsRun(const RowsSpec& spec)
      : spec_(spec),
        x_(PaddedMatrix::random("x", spec.source, spec.rows, spec.cols, spec.padding,
                                spec.deviation)),
        codes_(DType::kE4M3, {spec.rows, spec.cols}),
        scale_(DType::kF32, {spec.rows, ops::quantized_blocks(spec.cols, spec.segment)}),
        back_(DType::kF32, {spec.rows, spec.cols}),
        scratch_(static_cast<size_t>(4 * spec.rows * (spec.cols + 64)) + 4096) {}
  void run() override {
    ops::quantize_rows(codes_, scale_, x_, spec_.segment, spec_.format);
    if (spec_.bench) return;
    ops::dequantize_rows(back_, codes_, scale_, spec_.segment);
    const Arena::Scope scope(scratch_);
    left_ = ops::quantize_left(scratch_, x_, {spec_.segment, spec_.format});
    numbers_.clear();
    for (int64_t r = 0; r < spec_.rows; ++r) {
      const bf16* row = left_.numbers.row<bf16>(r);
      numbers_.insert(numbers_.end(), row, row + left_.numbers.cols);
    }
    left_scales_.assign(left_.scales.data, left_.scales.data + scale_.count());
  }
  std::vector<Check> check() override {
    const int64_t width = spec_.segment > 0 ? spec_.segment : spec_.cols, T = spec_.rows;
    const int64_t blocks = (width + 127) / 128, all = scale_.dim(1);
    const int64_t step = width == spec_.cols ? width : (width + 1) / 2 * 2;
    double codes = 0, scales = 0, numbers = 0, back = 0;
    for (int64_t begin = 0; begin < spec_.cols; begin += width) {
      const Codes want = quantized(x_, begin, width, kTile1x128, spec_.format);
      const int64_t p = begin / width;
      for (int64_t i = 0; i < T * blocks; ++i) {
        const int64_t at = i / blocks * all + p * blocks + i % blocks;
        const float scale = want.scales.data<float>()[i];
        scales += scale_.data<float>()[at] == scale ? 0 : 1;
        scales += left_scales_[static_cast<size_t>(at)] == scale ? 0 : 1;
      }
      for (int64_t i = 0; i < T * width; ++i) {
        const int64_t r = i / width, c = i % width;
        const uint8_t code = code_at(want.codes, i);
        const float scale = want.scales.data<float>()[r * blocks + c / 128];
        codes += code_at(codes_, r * spec_.cols + begin + c) == code ? 0 : 1;
        numbers += static_cast<float>(
                       numbers_[static_cast<size_t>(r * left_.numbers.cols + p * step + c)]) ==
                           e4m3_decode(code)
                       ? 0
                       : 1;
        back +=
            back_.data<float>()[r * spec_.cols + begin + c] == e4m3_decode(code) * scale ? 0 : 1;
      }
      for (int64_t r = 0; r < T && step > width; ++r) {
        const auto at = static_cast<size_t>(r * left_.numbers.cols + p * step + width);
        numbers += numbers_[at].bits == 0 ? 0 : 1;
      }
    }
    return {{"codes", codes, 0}, {"scales", scales, 0}, {"numbers", numbers, 0}, {"back", back, 0}};
  }
  std::vector<Tensor> outputs() override { return {codes_, scale_}; }

 private:
  RowsSpec spec_;
  PaddedMatrix x_;
  OwnedTensor codes_, scale_, back_;
  Arena scratch_;
  ops::QuantizedLeft left_;
  std::vector<bf16> numbers_;
  std::vector<float> left_scales_;
};

// E5M6: rounded in place, kept, and read again.
class E5M6Run final : public OpRun {
 public:
  E5M6Run(int64_t rows, int64_t cols, double deviation)
      : x_(PaddedMatrix::random("x", DType::kBF16, rows, cols, 3, deviation)),
        y_(PaddedMatrix::random("x", DType::kBF16, rows, cols, 3, deviation)),
        again_(PaddedMatrix::random("again", DType::kBF16, rows, cols, 3, deviation)),
        codes_(DType::kU8, {rows, ops::e5m6_bytes(cols)}),
        scale_(DType::kF32, {rows, ops::quantized_blocks(cols, 0)}) {}
  void run() override {
    std::memcpy(y_.memory().raw(), x_.memory().raw(), x_.memory().bytes());
    ops::quantize_e5m6(y_, codes_, scale_);
    ops::dequantize_e5m6(again_, codes_, scale_);
  }
  std::vector<Check> check() override {
    const ops::Matrix view = x_;
    const OwnedTensor x = columns_of(x_, 0, view.cols);
    const OwnedTensor scale(DType::kF32, scale_shape(x.shape(), kTile1x128));
    std::vector<uint16_t> codes(static_cast<size_t>(x.count()));
    quantize_e5m6(codes, scale, x);
    const OwnedTensor want(DType::kF32, x.shape());
    dequantize_e5m6(want, codes, scale);
    const std::vector<double> numbers = to_double(want);
    double scales = 0, different = 0;
    for (int64_t i = 0; i < scale.count(); ++i) {
      scales += scale.data<float>()[i] == scale_.data<float>()[i] ? 0 : 1;
    }
    for (int64_t i = 0; i < x.count(); ++i) {
      different += codes[static_cast<size_t>(i)] == code_at(i / view.cols, i % view.cols) ? 0 : 1;
    }
    return {compare_exactly("y", y_, numbers),
            compare_exactly("again", again_, numbers),
            {"scales", scales, 0},
            {"codes", different, 0},
            y_.padding_check("y"),
            again_.padding_check("again")};
  }
  std::vector<Tensor> outputs() override { return {y_.memory(), codes_, scale_}; }

 private:
  // As ops/kernels/e5m6.h tells the layout.
  uint16_t code_at(int64_t row, int64_t column) const {
    const ops::Matrix view = x_;
    const int64_t begin = column / 128 * 128, i = column - begin;
    const int64_t count = std::min<int64_t>(128, view.cols - begin), half = (count + 1) / 2;
    const uint8_t* tile = codes_.data<uint8_t>() + row * codes_.dim(1) + begin / 128 * 192;
    const int upper = i < half ? tile[count + i] & 15 : tile[count + i - half] >> 4;
    return static_cast<uint16_t>(tile[i] | upper << 8);
  }

  PaddedMatrix x_, y_, again_;
  OwnedTensor codes_, scale_;
};

// A weight quantised and packed, as codes that are unpacked again.
class WeightRun final : public OpRun {
 public:
  WeightRun(int64_t rows, int64_t cols, int64_t pieces, ScaleFormat format)
      : format_(format),
        pieces_(pieces),
        step_((rows + 1) / 2 * 2),
        w_(random_tensor("w", DType::kF32, {pieces * rows, cols})),
        scale_(DType::kF32, {pieces * ((rows + 127) / 128), (cols + 127) / 128}),
        dgrad_(DType::kU8, {bytes(cols, pieces * step_)}) {
    const ops::Packed by_columns{memory(dgrad_), DType::kE4M3, cols, pieces * step_};
    for (int64_t p = 0; p < pieces; ++p) {
      fprop_.emplace_back(DType::kU8, Shape{bytes(rows, cols)});
      jobs_.push_back({{{memory(fprop_.back()), DType::kE4M3, rows, cols},
                        by_columns,
                        p * step_,
                        scale_.rows(p * scale_.dim(0) / pieces, 1).data<float>(),
                        format},
                       w_.rows(p * rows, rows)});
    }
  }
  void run() override { ops::quantize_weights(jobs_); }
  std::vector<Check> check() override {
    const int64_t rows = w_.dim(0) / pieces_, K = w_.dim(1);
    double codes = 0, scales = 0;
    for (int64_t p = 0; p < pieces_; ++p) {
      const Codes want = quantized(w_.rows(p * rows, rows), 0, K, kBlock128x128, format_);
      const float* scale = scale_.data<float>() + p * want.scales.count();
      for (const float s : want.scales.span<float>()) scales += *scale++ == s ? 0 : 1;
      for (int64_t i = 0; i < rows * K; ++i) {
        const int64_t n = i / K, k = i % K;
        const uint8_t code = code_at(want.codes, i);
        codes += packed_at(fprop_[static_cast<size_t>(p)], K, n, k) == code ? 0 : 1;
        codes += packed_at(dgrad_, pieces_ * step_, k, p * step_ + n) == code ? 0 : 1;
      }
    }
    return {{"codes", codes, 0}, {"scales", scales, 0}};
  }
  std::vector<Tensor> outputs() override { return {dgrad_, scale_, fprop_[0]}; }

 private:
  static int64_t bytes(int64_t n, int64_t k) {
    return static_cast<int64_t>(ops::packed_bytes(DType::kE4M3, n, k));
  }
  static std::byte* memory(const Tensor& x) { return static_cast<std::byte*>(x.raw()); }
  // As ops/kernels/matmul_fp8.h tells the layout.
  static uint8_t packed_at(const Tensor& packed, int64_t K, int64_t n, int64_t k) {
    const int64_t c = n % 32, slot = c % 16 / 4 * 8 + c / 16 * 4 + c % 4;
    return code_at(packed, (n / 32 * ((K + 1) / 2) + k / 2) * 64 + 2 * slot + k % 2);
  }

  ScaleFormat format_;
  int64_t pieces_, step_;
  OwnedTensor w_, scale_, dgrad_;
  std::vector<OwnedTensor> fprop_;
  std::vector<ops::QuantizeJob> jobs_;
};

struct WgradSpec {
  std::vector<int64_t> tokens;
  int64_t N = 0, K = 0;
  ops::Fp8Recipe recipe;
  DType source = DType::kBF16;
  bool accumulate = false;
  bool bench = false;
};

class WgradRun final : public OpRun {
 public:
  explicit WgradRun(const WgradSpec& spec) : spec_(spec) {
    int64_t rows = 0;
    for (const int64_t M : spec.tokens) {
      const std::string name = fmt::format(" {}", members_.size());
      members_.push_back({PaddedMatrix::random("dy" + name, spec.source, M, spec.N, 3),
                          PaddedMatrix::random("x" + name, spec.source, M, spec.K, 3),
                          PaddedMatrix::random("dw" + name, DType::kF32, spec.N, spec.K, 3),
                          OwnedTensor()});
      Member& m = members_.back();
      m.before = OwnedTensor(DType::kF32, m.dw.memory().shape());
      std::memcpy(m.before.raw(), m.dw.memory().raw(), m.before.bytes());
      rows += M + 128;
    }
    for (const Member& m : members_) products_.push_back({m.dw, m.dy, m.x, spec.accumulate});
    scratch_ = std::make_unique<Arena>(
        static_cast<size_t>(8 * rows * (spec.N + spec.K + 64) + (int64_t{1} << 16)));
  }
  void run() override {
    for (const Member& m : members_) {
      std::memcpy(m.dw.memory().raw(), m.before.raw(), m.before.bytes());
    }
    ops::matmul_wgrad_fp8(products_, spec_.recipe, *scratch_);
  }
  std::vector<Check> check() override {
    std::vector<Check> checks;
    for (size_t i = 0; i < members_.size(); ++i) {
      checks.push_back(check(members_[i], fmt::format("dw {}", i)));
      checks.push_back(members_[i].dw.padding_check(fmt::format("dw {}", i)));
    }
    return checks;
  }
  std::vector<Tensor> outputs() override {
    std::vector<Tensor> out;
    for (const Member& m : members_) out.push_back(m.dw.memory());
    return out;
  }

 private:
  struct Member {
    PaddedMatrix dy, x, dw;
    OwnedTensor before;
  };

  // What the products read of x.
  std::vector<double> operand(const ops::Matrix& x, bool requantized) const {
    OwnedTensor values = columns_of(x, 0, x.cols);
    if (requantized) {
      const Codes codes = quantized(values, 0, x.cols, kTile1x128, spec_.recipe.scales);
      dequantize_e4m3(values, codes.codes, codes.scales, kTile1x128);
    }
    const Codes codes = quantized(values, 0, x.cols, kTile128x1, spec_.recipe.scales);
    std::vector<double> out(static_cast<size_t>(x.rows * x.cols));
    for (int64_t i = 0; i < x.rows * x.cols; ++i) {
      const float scale = codes.scales.data<float>()[i / x.cols / 128 * x.cols + i % x.cols];
      out[static_cast<size_t>(i)] =
          static_cast<double>(e4m3_decode(code_at(codes.codes, i))) * double{scale};
    }
    return out;
  }

  Check check(const Member& m, const std::string& name) const {
    const ops::Matrix dy = m.dy, dw = m.dw;
    std::vector<double> left = operand(dy, false), right = operand(m.x, spec_.recipe.requantized);
    const auto size = static_cast<size_t>(spec_.N * spec_.K);
    std::vector<double> want(size), terms(size), bound(size);
    ref::matmul_wgrad<double>(want, left, right, dy.rows, spec_.N, spec_.K);
    for (double& v : left) v = std::abs(v);
    for (double& v : right) v = std::abs(v);
    ref::matmul_wgrad<double>(terms, left, right, dy.rows, spec_.N, spec_.K);
    const double M = static_cast<double>(dy.rows);
    const double n = std::min(M, 128.0) + 4 + std::ceil(M / 128);
    const std::vector<double> before =
        to_double({m.before.raw(), DType::kF32, dw.rows, dw.cols, dw.stride});
    for (size_t i = 0; i < size; ++i) {
      const double was = spec_.accumulate ? before[i] : 0;
      want[i] += was;
      bound[i] = n * kRoundoffF32 / (1 - n * kRoundoffF32) * (terms[i] + std::abs(was)) + 0x1p-100;
    }
    return compare(name, dw, want, bound);
  }

  WgradSpec spec_;
  std::vector<Member> members_;
  std::vector<ops::WeightGradient> products_;
  std::unique_ptr<Arena> scratch_;
};

void add(OpCases& cases, const WgradSpec& spec) {
  int64_t rows = 0;
  for (const int64_t M : spec.tokens) rows += M;
  OpCase out;
  out.op = "matmul_wgrad_fp8";
  out.shape = fmt::format("{} in {}x{}x{} {} {}{}", rows, spec.tokens.size(), spec.N, spec.K,
                          short_name(spec.source), scales_name(spec.recipe.scales),
                          spec.recipe.requantized ? " requantised" : "");
  if (spec.accumulate) out.shape += " accumulated";
  out.bench = spec.bench;
  out.limit = Limit::kComputeBF16;
  out.work = 2.0 * static_cast<double>(rows * spec.N * spec.K);
  out.make = [spec] { return std::make_unique<WgradRun>(spec); };
  cases.push_back(std::move(out));
}

void add(OpCases& cases, const RowsSpec& spec) {
  OpCase out;
  out.op = "quantize_rows";
  out.shape = fmt::format("{}x{} {} {}", spec.rows, spec.cols, short_name(spec.source),
                          scales_name(spec.format));
  if (spec.segment > 0) out.shape += fmt::format(" in segments of {}", spec.segment);
  if (spec.deviation != 1) out.shape += fmt::format(" of size {}", spec.deviation);
  out.bench = spec.bench;
  out.limit = Limit::kMemory;
  out.work =
      static_cast<double>(spec.rows * spec.cols) * (1 + static_cast<double>(size_of(spec.source)));
  out.make = [spec] { return std::make_unique<RowsRun>(spec); };
  cases.push_back(std::move(out));
}

template <typename Run, typename... Arguments>
void add_small(OpCases& cases, const char* op, std::string shape, Arguments... arguments) {
  OpCase out;
  out.op = op;
  out.shape = std::move(shape);
  out.make = [arguments...] { return std::make_unique<Run>(arguments...); };
  cases.push_back(std::move(out));
}

}  // namespace

void add_quantize_cases(OpCases& cases) {
  for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
    for (const DType source : {DType::kF32, DType::kBF16}) {
      const auto rows = [&](int64_t T, int64_t C, int64_t segment = 0, double deviation = 1) {
        add(cases, RowsSpec{T, C, segment, 3, source, format, deviation});
      };
      for (const int64_t size : kTailSizes) rows(2, 100 + size);
      rows(0, 5);
      rows(70, 300);
      for (const int64_t segment : {1, 127, 130, 176}) rows(5, 2 * segment, segment);
      for (const double deviation : {1e-38, 1e-42, 1e30}) rows(3, 200, 0, deviation);
      for (const bool requantized : {false, true}) {
        WgradSpec wgrad;
        wgrad.recipe = {format, requantized};
        wgrad.source = source;
        for (const int64_t M : {1, 2, 5, 127, 128, 129, 300}) {
          wgrad.tokens = {M};
          wgrad.N = 70 - M % 40;
          wgrad.K = 130 + M % 9;
          add(cases, wgrad);
        }
        wgrad.tokens = {3, 0, 140, 1};
        add(cases, wgrad);
        wgrad.accumulate = true;
        add(cases, wgrad);
      }
    }
    for (const int64_t pieces : {1, 2}) {
      for (const auto& [N, K] :
           std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {33, 70}, {129, 257}, {130, 16}}) {
        add_small<WeightRun>(cases, "quantize_weights",
                             fmt::format("{} of {}x{} {}", pieces, N, K, scales_name(format)), N, K,
                             pieces, format);
      }
    }
  }
  for (const double deviation : {1.0, 1e-30, 1e5, 1e37}) {
    for (const int64_t columns : {1, 16, 129, 301}) {
      add_small<E5M6Run>(cases, "quantize_e5m6", fmt::format("5x{} of size {}", columns, deviation),
                         int64_t{5}, columns, deviation);
    }
  }
  RowsSpec rows{4096, 2048};
  rows.bench = true;
  add(cases, rows);
  rows.format = ScaleFormat::kPowerOfTwo;
  add(cases, rows);
  WgradSpec wgrad;
  wgrad.bench = true;
  wgrad.tokens = {512};
  wgrad.N = 1408;
  wgrad.K = 2048;
  add(cases, wgrad);
  wgrad.recipe.requantized = true;
  add(cases, wgrad);
}

}  // namespace minke::study

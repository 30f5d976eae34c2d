#include "study/verify_fp8.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "checkpoint/safetensors.h"
#include "ops/quantize.h"
#include "ref/matmul.h"

namespace minke::study {
namespace {

int64_t count_differences(const Tensor& got, const Tensor& want) {
  const auto* a = static_cast<const std::byte*>(got.raw());
  const auto* b = static_cast<const std::byte*>(want.raw());
  const size_t size = size_of(want.dtype());
  int64_t out = 0;
  for (size_t i = 0; i < want.bytes(); i += size) out += std::memcmp(a + i, b + i, size) != 0;
  return out;
}

class Fp8Verification {
 public:
  explicit Fp8Verification(const fs::path& path) : file_(path) {}

  Verification run() {
    const Tensor x = matrix("x"), w = matrix("w"), dy = matrix("dy");
    M_ = x.dim(0);
    K_ = x.dim(1);
    N_ = w.dim(0);
    if (w.dim(1) != K_ || dy.shape() != Shape{M_, N_}) {
      fail("{}: x is {}, w {}, dy {}; expected [M, K], [N, K], [M, N]", file_.path().string(),
           to_string(x.shape()), to_string(w.shape()), to_string(dy.shape()));
    }
    tables();
    for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
      rows("x", x, format);
      rows("dy", dy, format);
      tiles("x_128x1", x, kTile128x1, format);
      tiles("dy_128x1", dy, kTile128x1, format);
      tiles("w_128x128", w, kBlock128x128, format);
    }
    e5m6(x);
    products(x, w, dy);
    return {std::move(verdicts_)};
  }

 private:
  Tensor matrix(const char* name) const {
    const Tensor out = file_.tensor(name);
    if (out.dtype() != DType::kF32 || out.rank() != 2) {
      fail("{}: {} is {} {}, expected an FP32 matrix", file_.path().string(), name,
           name_of(out.dtype()), to_string(out.shape()));
    }
    return out;
  }
  void add_exact(std::string quantity, int64_t differences) {
    verdicts_.push_back({std::move(quantity), 1, static_cast<double>(differences), 0, "", ""});
  }
  // Codes (the same bytes as U8 and as E4M3) and scales.
  void compare(const std::string& name, const Tensor& codes, const Tensor& scale) {
    add_exact(name + " codes",
              count_differences(codes, file_.tensor(name + ".codes", DType::kU8, codes.shape())));
    add_exact(name + " scales", count_differences(scale, file_.tensor(name + ".scale_inv",
                                                                      DType::kF32, scale.shape())));
  }
  static std::string suffix(ScaleFormat format) {
    return format == ScaleFormat::kF32 ? "" : "_pow2";
  }

  // As training quantises activations.
  void rows(const std::string& name, const Tensor& x, ScaleFormat format) {
    const OwnedTensor codes(DType::kE4M3, x.shape());
    const OwnedTensor scale(DType::kF32, scale_shape(x.shape(), kTile1x128));
    ops::quantize_rows(codes, scale, x, 0, format);
    compare(name + "_1x128" + suffix(format), codes, scale);
  }
  // What packed operands are made of, whose products are compared below.
  void tiles(const std::string& name, const Tensor& x, TileShape tile, ScaleFormat format) {
    const OwnedTensor codes(DType::kE4M3, x.shape());
    const OwnedTensor scale(DType::kF32, scale_shape(x.shape(), tile));
    quantize_e4m3(codes, scale, x, tile, format);
    compare(name + suffix(format), codes, scale);
  }

  void tables() {
    const Tensor input = file_.tensor("e4m3.input");
    const Tensor codes = file_.tensor("e4m3.codes", DType::kU8, input.shape());
    int64_t differences = 0;
    for (int64_t i = 0; i < input.count(); ++i) {
      differences += e4m3_encode(input.data<float>()[i]) == codes.data<uint8_t>()[i] ? 0 : 1;
    }
    add_exact("E4M3 of numbers", differences);
    const Tensor e4m3 = file_.tensor("e4m3.table", DType::kF32, {256});
    const Tensor e5m6 = file_.tensor("e5m6.table");
    differences = 0;
    const auto count = [&](float got, float want) {
      differences += got == want || (std::isnan(got) && std::isnan(want)) ? 0 : 1;
    };
    for (int64_t i = 0; i < 256; ++i) {
      count(e4m3_decode(static_cast<uint8_t>(i)), e4m3.data<float>()[i]);
    }
    for (int64_t i = 0; i < e5m6.count(); ++i) {
      count(e5m6_decode(static_cast<uint16_t>(i)), e5m6.data<float>()[i]);
    }
    add_exact("numbers of codes", differences);
  }

  void e5m6(const Tensor& x) {
    std::vector<uint16_t> codes(static_cast<size_t>(x.count()));
    const OwnedTensor scale(DType::kF32, scale_shape(x.shape(), kTile1x128));
    quantize_e5m6(codes, scale, x);
    const Tensor want = file_.tensor("x_e5m6.codes", DType::kI32, x.shape());
    int64_t differences = 0;
    for (int64_t i = 0; i < x.count(); ++i) {
      differences += codes[static_cast<size_t>(i)] == want.data<int32_t>()[i] ? 0 : 1;
    }
    add_exact("x_e5m6 codes", differences);
    add_exact("x_e5m6 scales", count_differences(scale, file_.tensor("x_e5m6.scale_inv",
                                                                     DType::kF32, scale.shape())));
  }

  // Norm of the difference over norm. Every term of a sum errs by at most gamma(128 + 4 + blocks)
  // of itself (study/cases_matmul_fp8.cpp), so a sum by that of the sum of magnitudes; the oracle's
  // rounding to FP32 is one more.
  void compare_product(const char* name, const Tensor& got, int64_t sum, const Tensor& magnitudes) {
    const Tensor want = file_.tensor(name, DType::kF32, got.shape());
    double error = 0, norm = 0, most = 0;
    for (int64_t i = 0; i < want.count(); ++i) {
      const double w = double{want.data<float>()[i]}, g = double{got.data<float>()[i]};
      const double m = double{magnitudes.data<float>()[i]};
      error += (g - w) * (g - w);
      norm += w * w;
      most += m * m;
    }
    const double n =
        std::min(static_cast<double>(sum), 128.0) + 5 + std::ceil(static_cast<double>(sum) / 128);
    verdicts_.push_back({name, 1, std::sqrt(error / norm),
                         n * kRoundoffF32 / (1 - n * kRoundoffF32) * std::sqrt(most / norm), "",
                         ""});
  }
  // |x|: with an error of a rounding or two, which the bound does not notice.
  static OwnedTensor magnitudes(const Tensor& x) {
    OwnedTensor out(DType::kF32, x.shape());
    for (int64_t i = 0; i < x.count(); ++i) out.data<float>()[i] = std::abs(x.data<float>()[i]);
    return out;
  }

  void products(const Tensor& x, const Tensor& w, const Tensor& dy) {
    const int64_t rows_of_blocks = (N_ + 127) / 128, across = (K_ + 127) / 128;
    const OwnedTensor scale(DType::kF32, {rows_of_blocks, across});
    const auto memory = [](int64_t n, int64_t k) {
      return OwnedTensor(DType::kU8, {static_cast<int64_t>(ops::packed_bytes(DType::kE4M3, n, k))});
    };
    const OwnedTensor by_rows = memory(N_, K_), by_columns = memory(K_, N_);
    const auto bytes = [](const Tensor& of) { return static_cast<std::byte*>(of.raw()); };
    auto* scales = scale.data<float>();
    const ops::Packed fprop{bytes(by_rows), DType::kE4M3, N_, K_, {scales, 128, across, 1}};
    const ops::Packed dgrad{bytes(by_columns), DType::kE4M3, K_, N_, {scales, 128, 1, across}};
    const ops::QuantizeJob job{{fprop, dgrad, 0, scales, ScaleFormat::kF32}, w};
    ops::quantize_weights(std::span(&job, 1));

    Arena scratch(static_cast<size_t>(16 * ((M_ + 256) * (N_ + K_ + 256))) + (size_t{1} << 20));
    const auto left = ops::quantize_left(scratch, x, {0, ScaleFormat::kF32});
    const auto d_left = ops::quantize_left(scratch, dy, {0, ScaleFormat::kF32});
    const OwnedTensor y(DType::kF32, {M_, N_}), dx(DType::kF32, {M_, K_}),
        dw(DType::kF32, {N_, K_});
    ops::matmul({y, left.numbers, fprop, false, left.scales});
    ops::matmul({dx, d_left.numbers, dgrad, false, d_left.scales});
    const ops::WeightGradient gradient{dw, dy, x, false};
    ops::matmul_wgrad_fp8(std::span(&gradient, 1), {}, scratch);

    const OwnedTensor ax = magnitudes(x), aw = magnitudes(w), ady = magnitudes(dy);
    const OwnedTensor ay(DType::kF32, y.shape()), adx(DType::kF32, dx.shape()),
        adw(DType::kF32, dw.shape());
    ref::matmul<float>(ay.span<float>(), ax.span<float>(), aw.span<float>(), M_, N_, K_);
    ref::matmul_dgrad<float>(adx.span<float>(), ady.span<float>(), aw.span<float>(), M_, N_, K_);
    ref::matmul_wgrad<float>(adw.span<float>(), ady.span<float>(), ax.span<float>(), M_, N_, K_);
    compare_product("fprop", y, K_, ay);
    compare_product("dgrad", dx, N_, adx);
    compare_product("wgrad", dw, M_, adw);
  }

  checkpoint::SafetensorsFile file_;
  int64_t M_ = 0, K_ = 0, N_ = 0;
  std::vector<Verdict> verdicts_;
};

}  // namespace

Verification verify_fp8(const fs::path& file) { return Fp8Verification(file).run(); }

}  // namespace minke::study

#include "study/tensor_core.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace minke::study {
namespace {

constexpr size_t kProducts = 32;  // of one instruction
constexpr int kBits = 14;

}  // namespace

float tensor_core_dot(std::span<const float> a, std::span<const float> b, int64_t promote) {
  MINKE_CHECK(a.size() == b.size() && promote % static_cast<int64_t>(kProducts) == 0);
  float total = 0;
  double sum = 0;
  for (size_t begin = 0; begin < a.size(); begin += kProducts) {
    const size_t end = std::min(a.size(), begin + kProducts);
    double most = std::abs(sum);
    for (size_t i = begin; i < end; ++i)
      most = std::max(most, std::abs(double{a[i]} * double{b[i]}));
    if (most > 0) {
      const double unit = std::ldexp(1.0, std::ilogb(most) - (kBits - 1));
      const auto cut = [](double x, double to) { return std::trunc(x / to) * to; };
      double added = cut(sum, unit);
      for (size_t i = begin; i < end; ++i) added += cut(double{a[i]} * double{b[i]}, unit);
      sum = added == 0 ? 0 : cut(added, std::ldexp(1.0, std::ilogb(added) - (kBits - 1)));
    }
    if (promote > 0 && end % static_cast<size_t>(promote) == 0) {
      total += static_cast<float>(sum);
      sum = 0;
    }
  }
  return total + static_cast<float>(sum);
}

}  // namespace minke::study

#include "ops/kernels/router.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

void sigmoid_row(float* scores, const float* logits, int64_t experts) {
  for_each_in_step(
      experts, [&](int64_t i, auto n) { store_n(scores + i, sigmoid(load_n(logits + i, n)), n); });
}

void softmax_row(float* scores, const float* logits, int64_t experts) {
  const float top = max_vectors(experts, logits);
  const float total = sum_vectors(experts, [&](int64_t i, auto n) {
    const auto e = exp(load_n(logits + i, n) - splat(top));
    store_n(scores + i, e, n);
    return keep_n(e, n);
  });
  for_each_vector(experts, [&](int64_t i, int n) {
    store_n(scores + i, load_n(scores + i, n) / splat(total), n);
  });
}

void balance_backward(float* d, const float* f, const float* scores, float factor, float floor,
                      int64_t experts) {
  const float total =
      sum_vectors(experts, [&](int64_t i, auto n) { return load_n(scores + i, n); }) + floor;
  const float dot = sum_vectors(
      experts, [&](int64_t i, auto n) { return load_n(f + i, n) * load_n(scores + i, n); });
  const Vec mean = splat(dot / total), scale = splat(factor / total);
  for_each_vector(experts,
                  [&](int64_t i, int n) { store_n(d + i, scale * (load_n(f + i, n) - mean), n); });
}

void sigmoid_backward(float* d, const float* scores, int64_t experts) {
  for_each_vector(experts, [&](int64_t i, int n) {
    const Vec s = load_n(scores + i, n);
    store_n(d + i, load_n(d + i, n) * s * (splat(1.0F) - s), n);
  });
}

void softmax_backward(float* d, const float* scores, int64_t experts) {
  const float dot = sum_vectors(
      experts, [&](int64_t i, auto n) { return load_n(d + i, n) * load_n(scores + i, n); });
  for_each_vector(experts, [&](int64_t i, int n) {
    store_n(d + i, load_n(scores + i, n) * (load_n(d + i, n) - splat(dot)), n);
  });
}

}  // namespace

const RouterKernels& router_kernels() {
  static constexpr RouterKernels kTable{sigmoid_row, softmax_row, balance_backward,
                                        sigmoid_backward, softmax_backward};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET

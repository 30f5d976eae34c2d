#include "ops/rope.h"

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/dispatch.h"
#include "ops/kernels/rope.h"

namespace minke::ops {

void rope(const Matrix& dst, const Matrix& src, const Rope& how) {
  const Profiled profiled("rope");
  MINKE_CHECK(same_shape(dst, src) && dst.dtype == src.dtype);
  MINKE_CHECK(src.cols == how.heads * how.width && std::ssize(how.positions) == src.rows);
  MINKE_CHECK(how.cos.rank() == 2 && how.cos.shape() == how.sin.shape());
  const int64_t half = how.cos.dim(1);
  MINKE_CHECK(how.offset >= 0 && how.offset + 2 * half <= how.width);
  for (const int32_t p : how.positions) {
    MINKE_CHECK(p >= 0 && p < how.cos.dim(0), "position {} of {}", p, how.cos.dim(0));
  }
  const kernels::RopeRows rows{.heads = how.heads,
                               .width = how.width,
                               .offset = how.offset,
                               .half = half,
                               .cos = how.cos.data<float>(),
                               .sin = how.sin.data<float>(),
                               .positions = how.positions.data(),
                               .inverse = how.inverse};
  const auto rotate =
      MINKE_KERNELS(kernels::RopeKernels, rope_kernels)->rotate[format_index(src.dtype)];
  parallel_for(src.rows, rows_per_chunk(2 * half * how.heads),
               [&](int64_t begin, int64_t end) { rotate(dst, src, rows, begin, end); });
}

}  // namespace minke::ops

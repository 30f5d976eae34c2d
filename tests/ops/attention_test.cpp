// What attention and rope promise beside their numbers, which the op cases compare with the
// reference.
#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "ops/isa_test_fixture.h"
#include "ops/rope.h"

namespace minke::ops {
namespace {

void put(const Tensor& x, int64_t i, float value) {
  if (x.dtype() == DType::kBF16) {
    x.data<bf16>()[i] = bf16(value);
  } else {
    x.data<float>()[i] = value;
  }
}

OwnedTensor random(DType dtype, Shape shape, std::string_view what, float deviation = 1) {
  OwnedTensor x(dtype, shape);
  Rng rng(stream_key(1, 0, what));
  for (int64_t i = 0; i < x.count(); ++i) put(x, i, deviation * static_cast<float>(rng.normal()));
  return x;
}

using Bytes = std::vector<uint8_t>;

// One attention: inputs, and all that forward and backward give.
struct Instance {
  Instance(DType dtype, const AttentionShape& how, float deviation = 1) : shape(how) {
    const int64_t T = shape.batch * shape.positions, width = shape.nope + shape.rope;
    q = random(dtype, {T, shape.heads * width}, "q", deviation);
    kv = random(dtype, {T, shape.heads * (shape.nope + shape.v)}, "kv");
    k_rope = random(dtype, {T, shape.rope}, "k_rope");
    d_o = random(dtype, {T, shape.heads * shape.v}, "d_o");
    o = OwnedTensor(dtype, d_o.shape());
    lse = OwnedTensor(DType::kF32, {shape.heads, T});
    dq = OwnedTensor(dtype, q.shape());
    dkv = OwnedTensor(dtype, kv.shape());
    dk_rope = OwnedTensor(dtype, k_rope.shape());
  }
  void go(Arena& scratch) {
    attention(o, lse, q, kv, k_rope, shape, scratch);
    attention_backward(dq, dkv, dk_rope, d_o, o, lse, q, kv, k_rope, shape, scratch);
  }
  void go() {
    Arena scratch(size_t{1} << 28);
    go(scratch);
  }
  // Other inputs for tokens [begin, end).
  void change(int64_t begin, int64_t end) {
    for (const Tensor& x : {Tensor(q), Tensor(kv), Tensor(k_rope), Tensor(d_o)}) {
      const Tensor rows = x.rows(begin, end - begin);
      for (int64_t i = 0; i < rows.count(); ++i) put(rows, i, static_cast<float>(i % 7) - 3);
    }
  }
  // Everything that belongs to tokens [begin, end).
  std::vector<Bytes> results(int64_t begin, int64_t end) const {
    std::vector<Bytes> out;
    for (const Tensor& x : {Tensor(o), Tensor(dq), Tensor(dkv), Tensor(dk_rope)}) {
      out.push_back(bytes_of(x.rows(begin, end - begin)));
    }
    for (int64_t h = 0; h < shape.heads; ++h) {
      out.push_back(bytes_of(lse[h].rows(begin, end - begin)));
    }
    return out;
  }
  std::vector<Bytes> results() const { return results(0, q.dim(0)); }

  AttentionShape shape;
  OwnedTensor q, kv, k_rope, d_o, o, lse, dq, dkv, dk_rope;
};

constexpr DType kFormats[] = {DType::kF32, DType::kBF16};

class Attention : public EveryIsa {
 protected:
  void TearDown() override {
    set_thread_count(threads_);
    EveryIsa::TearDown();
  }
  const int threads_ = thread_count();
};
MINKE_ON_EVERY_ISA(Attention);

TEST_P(Attention, BytesDoNotDependOnThreads) {
  for (const DType dtype : kFormats) {
    std::vector<Bytes> one;
    for (const int threads : {1, 2}) {
      set_thread_count(threads);
      Instance run(dtype, {2, 150, 3, 9, 6, 7, 0.3F, {}});
      run.go();
      if (threads == 1) {
        one = run.results();
      } else {
        EXPECT_EQ(run.results(), one) << name_of(dtype);
      }
    }
  }
}

TEST_P(Attention, ATokenDoesNotSeeLaterOnes) {
  constexpr int64_t kS = 200, kHeads = 2, kV = 7;
  for (const DType dtype : kFormats) {
    for (const int64_t from : {1, 63, 64, 131}) {
      Instance a(dtype, {1, kS, kHeads, 5, 4, kV, 0.3F, {}}), b = Instance(dtype, a.shape);
      b.change(from, kS);
      a.go();
      b.go();
      EXPECT_EQ(bytes_of(a.o.rows(0, from)), bytes_of(b.o.rows(0, from))) << from;
      EXPECT_EQ(bytes_of(a.dq.rows(0, from)), bytes_of(b.dq.rows(0, from))) << from;
      EXPECT_NE(bytes_of(a.o.rows(from, 1)), bytes_of(b.o.rows(from, 1))) << from;
    }
  }
}

TEST_P(Attention, DocumentsAndSequencesDoNotSeeEachOther) {
  constexpr int64_t kS = 200;
  std::vector<int32_t> first(2 * kS);
  const std::vector<int64_t> starts{0, 3, 64, 150, 200};  // of the documents of either sequence
  for (int64_t t = 0; t < 2 * kS; ++t) {
    const auto next = std::ranges::upper_bound(starts, t % kS);
    first[static_cast<size_t>(t)] = static_cast<int32_t>(*(next - 1));
  }
  for (const DType dtype : kFormats) {
    Instance before(dtype, {2, kS, 2, 5, 4, 7, 0.3F, first});
    before.go();
    for (int64_t sequence = 0; sequence < 2; ++sequence) {
      for (size_t d = 0; d + 1 < starts.size(); ++d) {
        const int64_t begin = sequence * kS + starts[d], end = sequence * kS + starts[d + 1];
        Instance after(dtype, before.shape);
        after.change(begin, end);
        after.go();
        EXPECT_EQ(after.results(0, begin), before.results(0, begin));
        EXPECT_NE(after.results(begin, end), before.results(begin, end));
        EXPECT_EQ(after.results(end, 2 * kS), before.results(end, 2 * kS));
      }
    }
  }
}

TEST_P(Attention, LargeScoresStayFinite) {
  for (const DType dtype : kFormats) {
    Instance run(dtype, {1, 140, 1, 6, 4, 3, 1.0F, {}}, 1e4F);
    run.go();
    for (const Tensor& x : {Tensor(run.o), Tensor(run.dq), Tensor(run.dkv)}) {
      for (int64_t i = 0; i < x.count(); ++i) {
        const float v =
            dtype == DType::kBF16 ? static_cast<float>(x.data<bf16>()[i]) : x.data<float>()[i];
        ASSERT_TRUE(std::isfinite(v));
      }
    }
  }
}

// What a counting arena measures is what a run takes, and all of it is given back.
TEST_P(Attention, ScratchIsCounted) {
  for (const DType dtype : kFormats) {
    Instance run(dtype, {2, 70, 3, 9, 6, 7, 0.3F, {}});
    Arena counting{Arena::Counting{}}, scratch(size_t{1} << 28);
    run.go(counting);
    run.go(scratch);
    EXPECT_GT(counting.peak(), 0U);
    EXPECT_EQ(counting.peak(), scratch.peak());
    EXPECT_EQ(scratch.used(), 0U);
  }
}

TEST_P(Attention, ALatentRowsBytesDoNotDependOnTheOthers) {
  constexpr int64_t kHeads = 3, kRank = 37, kRope = 6, kWidth = kRank + kRope, kLongest = 700;
  Arena scratch(size_t{1} << 28);
  for (const DType dtype : kFormats) {
    const OwnedTensor cache = random(dtype, {kLongest, kWidth}, "cache"),
                      other = random(dtype, {kLongest, kWidth}, "other");
    std::vector<LatentRow> rows;
    for (int64_t m = 0; m < 20; ++m) rows.push_back({cache.raw(), 245 + m});
    for (const int64_t length : {1, 32, 256, 513, 700}) {
      rows.push_back({other.raw(), length});
      rows.push_back({cache.raw(), length});
    }
    const int64_t M = std::ssize(rows);
    const OwnedTensor q = random(dtype, {M, kHeads * kWidth}, "q");
    OwnedTensor all(dtype, {M, kHeads * kRank}), some(dtype, all.shape());
    set_thread_count(2);
    latent_attention(all, q, rows, kHeads, kRank, kRope, 0.2F, scratch);
    set_thread_count(1);
    for (int64_t width = 1; width <= 8; ++width) {
      for (int64_t m = 0; m < M; m += width) {
        const int64_t n = std::min(width, M - m);
        latent_attention(some.rows(m, n), q.rows(m, n),
                         std::span(rows).subspan(static_cast<size_t>(m), static_cast<size_t>(n)),
                         kHeads, kRank, kRope, 0.2F, scratch);
      }
      EXPECT_EQ(bytes_of(some), bytes_of(all)) << width << " rows at a time";
    }
    EXPECT_EQ(scratch.used(), 0U);
  }
}

TEST_P(Attention, RopeInPlaceIsRopeToAnotherMatrix) {
  constexpr int64_t kRows = 9, kHeads = 2, kWidth = 23;
  const OwnedTensor cos = random(DType::kF32, {4, 9}, "cos"),
                    sin = random(DType::kF32, {4, 9}, "sin");
  const std::vector<int32_t> positions{3, 2, 1, 0, 0, 1, 2, 3, 3};
  for (const DType dtype : kFormats) {
    const OwnedTensor x = random(dtype, {kRows, kHeads * kWidth}, "x");
    OwnedTensor y = random(dtype, x.shape(), "x"), in_place = random(dtype, x.shape(), "x");
    const Rope how{kHeads, kWidth, 5, cos, sin, positions, false};
    rope(y, x, how);
    rope(in_place, in_place, how);
    EXPECT_EQ(bytes_of(y), bytes_of(in_place));
    EXPECT_NE(bytes_of(y), bytes_of(x));
  }
}

}  // namespace
}  // namespace minke::ops

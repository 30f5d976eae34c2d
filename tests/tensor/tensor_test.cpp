// Shapes, views, owners and the arena.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <utility>

namespace minke {
namespace {

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(DType::kF64), 8U);
  EXPECT_EQ(size_of(DType::kI64), 8U);
  EXPECT_EQ(size_of(DType::kF32), 4U);
  EXPECT_EQ(size_of(DType::kI32), 4U);
  EXPECT_EQ(size_of(DType::kBF16), 2U);
  EXPECT_EQ(size_of(DType::kE4M3), 1U);
  EXPECT_EQ(size_of(DType::kU8), 1U);
  EXPECT_EQ(name_of(DType::kE4M3), "F8_E4M3");
  EXPECT_EQ(name_of(DType::kBF16), "BF16");
}

TEST(Shape, CountsAndPrints) {
  EXPECT_EQ((Shape{2, 3, 4}).count(), 24);
  EXPECT_EQ(Shape{}.count(), 1);
  EXPECT_EQ((Shape{5, 0}).count(), 0);
  EXPECT_EQ(to_string(Shape{2, 3}), "[2, 3]");
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_NE((Shape{2}), (Shape{2, 1}));
}

TEST(ShapeDeathTest, MoreDimensionsThanThereAre) { EXPECT_DEATH((Shape{1, 1, 1, 1, 1}), "rank 5"); }

class Views : public testing::Test {
 protected:
  Views() { std::iota(numbers_.begin(), numbers_.end(), 0.0F); }
  std::array<float, 24> numbers_{};
  Tensor x_{numbers_.data(), Shape{4, 3, 2}};
};

TEST_F(Views, RowsAndSlicesShareTheNumbers) {
  const Tensor middle = x_.rows(1, 2);
  EXPECT_EQ(middle.shape(), (Shape{2, 3, 2}));
  EXPECT_EQ(middle.data<float>()[0], 6.0F);
  const Tensor slice = x_[3][1];
  EXPECT_EQ(slice.shape(), Shape{2});
  EXPECT_EQ(slice.data<float>()[0], 20.0F);
  slice.data<float>()[0] = -1;
  EXPECT_EQ(numbers_[20], -1.0F);
  EXPECT_EQ(x_.rows(4, 0).count(), 0);
}

TEST_F(Views, AnotherShapeOfTheSameCount) {
  EXPECT_EQ(x_.as(Shape{8, 3})[7].data<float>()[2], 23.0F);
  EXPECT_EQ(x_.bytes(), sizeof numbers_);
  EXPECT_EQ(x_.span<float>().size(), 24U);
}

using ViewsDeathTest = Views;

TEST_F(ViewsDeathTest, RefuseWhatDoesNotFit) {
  EXPECT_DEATH(x_.rows(3, 2), "rows");
  EXPECT_DEATH(x_.rows(-1, 1), "rows");
  EXPECT_DEATH(x_.as(Shape{5, 5}), "as");
  EXPECT_DEATH(x_.data<bf16>(), "F32");
}

TEST(OwnedTensor, IsZeroedAlignedAndMoves) {
  OwnedTensor x(DType::kF32, Shape{3, 5});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(x.raw()) % 64, 0U);
  EXPECT_TRUE(std::ranges::all_of(x.span<float>(), [](float v) { return v == 0; }));
  x.data<float>()[14] = 7;
  const void* memory = x.raw();
  const OwnedTensor moved = std::move(x);
  EXPECT_EQ(moved.raw(), memory);
  EXPECT_EQ(moved.data<float>()[14], 7.0F);
}

TEST(Arena, HandsOutAlignedMemoryInOrderAndTakesItBack) {
  Arena arena(4096);
  const Tensor a = arena.make(DType::kU8, Shape{1});
  const Tensor b = arena.make(DType::kF32, Shape{10});
  EXPECT_EQ(static_cast<std::byte*>(b.raw()) - static_cast<std::byte*>(a.raw()), 64);
  const size_t mark = arena.used();
  {
    const Arena::Scope scope(arena);
    arena.make(DType::kF64, Shape{100});
    EXPECT_GT(arena.used(), mark);
  }
  EXPECT_EQ(arena.used(), mark);
  const Tensor c = arena.make(DType::kU8, Shape{1});
  EXPECT_EQ(static_cast<std::byte*>(c.raw()) - static_cast<std::byte*>(b.raw()), 64);
  EXPECT_GE(arena.peak(), mark + 800);
}

// What is measured must be enough for what is then done: the two must never drift apart.
TEST(Arena, CountingTakesWhatTheSameCallsThenNeed) {
  const auto work = [](Arena& arena) {
    arena.make(DType::kBF16, Shape{7, 3});
    const Arena::Scope scope(arena);
    arena.make(DType::kF32, Shape{33});
    arena.make(DType::kU8, Shape{0});
    arena.make(DType::kI64, Shape{1, 2, 3});
  };
  Arena counting{Arena::Counting{}};
  work(counting);
  EXPECT_EQ(counting.make(DType::kF32, Shape{1}).raw(), nullptr);

  Arena real(counting.peak());
  work(real);
  EXPECT_EQ(real.peak(), counting.peak());
}

TEST(ArenaDeathTest, RefusesMoreThanItHas) {
  Arena arena(256);
  arena.make(DType::kU8, Shape{256});
  EXPECT_DEATH(arena.make(DType::kU8, Shape{1}), "arena of 256 bytes");
}

TEST(Buffer, MoreThanTheAddressSpaceIsAnError) { EXPECT_THROW(Buffer(size_t{1} << 60), Error); }

}  // namespace
}  // namespace minke

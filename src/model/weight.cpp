#include "model/weight.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/thread_pool.h"
#include "ops/elementwise.h"

namespace minke::model {
namespace {

int64_t even(int64_t n) { return (n + 1) / 2 * 2; }

}  // namespace

Weight Weight::matrix(Kind kind, std::string name, int64_t rows, int64_t cols) {
  Weight w;
  w.kind_ = kind;
  w.count_ = 1;
  w.rows_ = rows;
  w.cols_ = cols;
  w.pieces_.push_back({std::move(name), {rows, cols}, {}, {}, {}});
  return w;
}

Weight Weight::vector(std::string name, int64_t size) {
  Weight w;
  w.kind_ = Kind::kVector;
  w.count_ = 1;
  w.rows_ = 1;
  w.cols_ = size;
  w.pieces_.push_back({std::move(name), {size}, {}, {}, {}});
  return w;
}

Weight Weight::experts(const std::string& prefix, int64_t count,
                       const std::vector<std::string>& projections, int64_t rows_each,
                       int64_t cols) {
  Weight w;
  w.count_ = count;
  w.rows_ = rows_each * static_cast<int64_t>(projections.size());
  w.cols_ = cols;
  for (int64_t e = 0; e < count; ++e) {
    for (const std::string& projection : projections) {
      w.pieces_.push_back(
          {fmt::format("{}{}.{}.weight", prefix, e, projection), {rows_each, cols}, {}, {}, {}});
    }
  }
  return w;
}

Weight Weight::stacked(const std::vector<std::string>& names, int64_t rows_each, int64_t cols) {
  Weight w;
  w.count_ = 1;
  w.rows_ = rows_each * static_cast<int64_t>(names.size());
  w.cols_ = cols;
  for (const std::string& name : names) w.pieces_.push_back({name, {rows_each, cols}, {}, {}, {}});
  return w;
}

void Weight::own() {
  master_ = kind_ == Kind::kVector ? OwnedTensor(DType::kF32, {cols_})
                                   : OwnedTensor(DType::kF32, {count_ * rows_, cols_});
  float* at = master_.data<float>();
  for (Piece& piece : pieces_) {
    piece.value = Tensor(at, piece.shape);
    at += piece.shape.count();
  }
}

void Weight::attach_gradient() {
  gradient_ = OwnedTensor(DType::kF32, master_.shape());
  float* at = gradient_.data<float>();
  for (Piece& piece : pieces_) {
    piece.grad = Tensor(at, piece.shape);
    at += piece.shape.count();
  }
}

void Weight::clear_gradient() {
  has_gradient_ = false;
  // Rows and sums are added to these one by one.
  if (kind_ == Kind::kEmbedding || kind_ == Kind::kVector) settle_gradient();
}

void Weight::settle_gradient() {
  if (std::exchange(has_gradient_, true)) return;
  const auto grad = gradient_.span<float>();
  constexpr int64_t kChunk = 1 << 18;
  parallel_for(static_cast<int64_t>(grad.size()), kChunk, [&](int64_t begin, int64_t end) {
    std::fill(grad.begin() + begin, grad.begin() + end, 0.0F);
  });
}

void Weight::add_updates(const Tensor& m, const Tensor& v, const Tensor& average,
                         float weight_decay, std::vector<ops::AdamWUpdate>& updates) const {
  if (fprop_.empty()) {
    updates.push_back({master_, m, v, gradient_, weight_decay, {}, {}, average});
    return;
  }
  const int64_t parts = codes_.empty() ? count_ : std::ssize(pieces_);
  const int64_t rows = count_ * rows_ / parts;
  for (int64_t i = 0; i < parts; ++i) {
    const auto of = [&](const Tensor& x) { return x.empty() ? x : x.rows(i * rows, rows); };
    ops::AdamWUpdate update{of(master_),  of(m), of(v), of(gradient_),
                            weight_decay, {},    {},    of(average)};
    if (codes_.empty()) {
      update.by_rows = fprop(i);
      if (!dgrad_.empty()) update.by_columns = dgrad(i);
    } else {
      update.codes = codes_[static_cast<size_t>(i)];
    }
    updates.push_back(update);
  }
}

Tensor Weight::matrix_value(int64_t i, std::vector<OwnedTensor>& assembled) const {
  if (owned()) return master_.rows(i * rows_, rows_);
  return stacked(i, &Piece::value, assembled);
}

// What the i-th matrix's pieces have of it, one below the other.
Tensor Weight::stacked(int64_t i, Tensor Piece::*part, std::vector<OwnedTensor>& assembled) const {
  const auto first = static_cast<size_t>(i * parts()), each = static_cast<size_t>(parts());
  const Tensor& top = pieces_[first].*part;
  if (each == 1) return top;
  assembled.emplace_back(top.dtype(), Shape{rows_, top.dim(1)});
  const Tensor whole = assembled.back();
  int64_t row = 0;
  for (size_t p = first; p < first + each; ++p) {
    const Tensor& value = pieces_[p].*part;
    if (value.dtype() == whole.dtype()) {
      std::memcpy(whole.rows(row, value.dim(0)).raw(), value.raw(), value.bytes());
    } else {
      ops::convert(whole.rows(row, value.dim(0)), value);
    }
    row += value.dim(0);
  }
  return whole;
}

size_t Weight::packed_size(Precision precision, bool with_dgrad) const {
  if (kind_ == Kind::kVector || kind_ == Kind::kEmbedding) return 0;
  const DType format = operand(precision);
  size_t each = 0;
  if (other_side(precision) == DType::kE4M3) {
    const int64_t rows = rows_ / parts();
    const Shape scales = scale_shape({rows, cols_}, kBlock128x128);
    each = static_cast<size_t>(parts()) * aligned(ops::packed_bytes(format, rows, cols_)) +
           aligned(static_cast<size_t>(parts() * scales.count()) * sizeof(float));
    if (with_dgrad) each += aligned(ops::packed_bytes(format, cols_, parts() * even(rows)));
  } else {
    each = aligned(ops::packed_bytes(format, rows_, cols_));
    if (with_dgrad) each += aligned(ops::packed_bytes(format, cols_, rows_));
  }
  return each * static_cast<size_t>(count_);
}

// Rows of the stacked matrix keep the scales of their own piece, whose blocks may end within a
// block of the whole: so a scale is for as many rows as divide both.
void Weight::make_scales() {
  const int64_t each = parts(), piece_rows = rows_ / each,
                blocks = (cols_ + ops::kScaleBlock - 1) / ops::kScaleBlock;
  const int64_t tile = each == 1 ? ops::kScaleBlock : std::gcd(piece_rows, ops::kScaleBlock);
  const int64_t tiles = (rows_ + tile - 1) / tile;
  scales_ = OwnedTensor(DType::kF32, {count_, tiles, blocks});
  for (int64_t i = 0; i < count_; ++i) {
    for (int64_t t = 0; t < tiles; ++t) {
      const Piece& piece = pieces_[static_cast<size_t>(i * each + t * tile / piece_rows)];
      const Tensor from = piece.scale[t * tile % piece_rows / ops::kScaleBlock];
      std::ranges::copy(from.span<float>(), scales_[i][t].data<float>());
    }
    ops::Packed& packed = fprop_[static_cast<size_t>(i)];
    packed.scales = {scales_[i].data<float>(), tile, blocks, 1};
  }
}

void Weight::place(Precision precision, std::byte* memory) {
  if (packed_size(precision, false) == 0) return;
  MINKE_CHECK(other_side(precision) != DType::kE4M3);
  const DType format = operand(precision);
  fprop_.clear();
  dgrad_.clear();
  for (int64_t i = 0; i < count_; ++i) {
    fprop_.push_back({memory, format, rows_, cols_});
    memory += aligned(ops::packed_bytes(format, rows_, cols_));
  }
  if (codes()) make_scales();
}

// Pieces are packed where they lie, if each fills whole panels.
void Weight::add_fprop_jobs(int64_t i, PackJobs& jobs) const {
  const int64_t each = parts(), piece_rows = rows_ / each;
  if (owned() || each == 1 || piece_rows % ops::kPackRows != 0) {
    const Tensor value = matrix_value(i, jobs.assembled);
    ops::PackJob job{fprop(i), value};
    if (integers()) job.scales = stacked(i, &Piece::scale, jobs.assembled);
    jobs.by_rows.push_back(job);
    return;
  }
  for (int64_t p = 0; p < each; ++p) {
    ops::Packed part = fprop(i);
    part.data += ops::packed_bytes(part.format, p * piece_rows, cols_);
    part.n = piece_rows;
    const Piece& piece = pieces_[static_cast<size_t>(i * each + p)];
    ops::PackJob job{part, piece.value};
    if (integers()) job.scales = piece.scale;
    jobs.by_rows.push_back(job);
  }
}

void Weight::make_operands(Precision precision, bool with_dgrad, size_t size) {
  packed_memory_ = OwnedTensor(DType::kU8, {static_cast<int64_t>(size)});
  auto* at = reinterpret_cast<std::byte*>(packed_memory_.data<uint8_t>());
  place(precision, at);
  if (!with_dgrad) return;
  const DType format = operand(precision);
  at += aligned(ops::packed_bytes(format, rows_, cols_)) * static_cast<size_t>(count_);
  for (int64_t i = 0; i < count_; ++i) {
    dgrad_.push_back({at, format, cols_, rows_});
    at += aligned(ops::packed_bytes(format, cols_, rows_));
  }
}

void Weight::quantize_into(ScaleFormat scales, bool with_dgrad, size_t size) {
  constexpr DType kFormat = DType::kE4M3;
  packed_memory_ = OwnedTensor(DType::kU8, {static_cast<int64_t>(size)});
  auto* at = reinterpret_cast<std::byte*>(packed_memory_.data<uint8_t>());
  fprop_.clear();
  dgrad_.clear();
  codes_.clear();
  const int64_t rows = rows_ / parts(), step = parts() == 1 ? rows : even(rows);
  const Shape blocks = scale_shape({rows, cols_}, kBlock128x128);
  for (int64_t i = 0; i < count_; ++i) {
    auto* scale = reinterpret_cast<float*>(at);
    at += aligned(static_cast<size_t>(parts() * blocks.count()) * sizeof(float));
    ops::Packed dgrad;
    if (with_dgrad) {
      dgrad = {at, kFormat, cols_, parts() * step, {scale, 128, 1, blocks[1]}};
      if (parts() > 1) dgrad.segment = step;
      at += aligned(ops::packed_bytes(kFormat, cols_, parts() * step));
      dgrad_.push_back(dgrad);
    }
    for (int64_t p = 0; p < parts(); ++p, scale += blocks.count()) {
      fprop_.push_back({at, kFormat, rows, cols_, {scale, 128, blocks[1], 1}});
      at += aligned(ops::packed_bytes(kFormat, rows, cols_));
      codes_.push_back({fprop_.back(), dgrad, p * step, scale, scales});
    }
  }
}

void Weight::add_pack_jobs(Precision precision, ScaleFormat scales, bool with_dgrad,
                           PackJobs& jobs) {
  const size_t size = packed_size(precision, with_dgrad);
  if (size == 0) return;
  const bool quantized = other_side(precision) == DType::kE4M3;
  const bool placed = !with_dgrad && !fprop_.empty() && packed_memory_.raw() == nullptr;
  if (!placed && packed_memory_.count() != static_cast<int64_t>(size)) {
    if (quantized) {
      quantize_into(scales, with_dgrad, size);
    } else {
      make_operands(precision, with_dgrad, size);
    }
  }
  if (quantized) {
    for (size_t p = 0; p < pieces_.size(); ++p) jobs.codes.push_back({codes_[p], pieces_[p].value});
    return;
  }
  for (int64_t i = 0; i < count_; ++i) {
    add_fprop_jobs(i, jobs);
    if (with_dgrad) jobs.by_columns.push_back({dgrad(i), matrix_value(i, jobs.assembled)});
  }
}

}  // namespace minke::model

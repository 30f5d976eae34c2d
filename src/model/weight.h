// One parameter, or the like parameters of all experts of a layer: where it lives, its gradient,
// and its prepared form.
//
// A weight is `count` matrices [rows, cols] (count: experts; 1 for anything else), each made of one
// or more pieces of whole rows. A piece is one tensor of a Hugging Face file: gate_proj and up_proj
// are two pieces of one matrix, so that one product reads both. Pieces lie either in memory of the
// weight's own (FP32, one after the other) or in a mapped file.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/names.h"
#include "ops/adamw.h"
#include "ops/quantize.h"
#include "tensor/integers.h"

namespace minke::model {

// Operands in memory of the caller's begin at multiples of 64 bytes.
inline size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// kFp8: as kBF16, with the products of linear layers in E4M3 (V3 report, section 3.3).
enum class Precision { kF32, kBF16, kFp8 };
// What activations are, and what operands are prepared in that FP8 leaves alone.
inline DType dtype_of_precision(Precision p) {
  return p == Precision::kF32 ? DType::kF32 : DType::kBF16;
}

constexpr auto names(Precision) {
  return std::array{Name{"fp32", Precision::kF32}, Name{"bf16", Precision::kBF16},
                    Name{"fp8", Precision::kFp8}};
}

struct Piece {
  std::string name;  // Hugging Face's
  Shape shape;       // [rows, cols], or [n] of a vector
  Tensor value;      // FP32, BF16, E4M3 codes, or integers; empty until it is loaded or made
  Tensor scale;      // of codes: FP32, one for each block of 128x128; of integers: BF16
  Tensor grad;       // FP32; empty where nobody trains
};

// What prepares the operands of some weights.
struct PackJobs {
  std::vector<ops::PackJob> by_rows, by_columns;
  std::vector<ops::QuantizeJob> codes;
  std::vector<OwnedTensor> assembled;  // matrices whose pieces lie apart

  void run() const {
    ops::pack_rows(by_rows);
    ops::pack_columns(by_columns);
    ops::quantize_weights(codes);
  }
};

class Weight {
 public:
  enum class Kind {
    kLinear,     // operands in the precision of the run
    kHead,       // a linear layer that is BF16 where others are FP8
    kGate,       // a linear layer that is FP32 in every precision: the router's
    kEmbedding,  // rows that are looked up
    kVector,     // a norm's scale: FP32, not decayed
  };

  Weight() = default;
  static Weight matrix(Kind kind, std::string name, int64_t rows, int64_t cols);
  static Weight vector(std::string name, int64_t size);
  // E matrices, each of the named projections of one expert stacked: prefix + "E." + projection.
  static Weight experts(const std::string& prefix, int64_t count,
                        const std::vector<std::string>& projections, int64_t rows_each,
                        int64_t cols);
  // One matrix of several stacked pieces.
  static Weight stacked(const std::vector<std::string>& names, int64_t rows_each, int64_t cols);

  bool exists() const { return !pieces_.empty(); }
  Kind kind() const { return kind_; }
  int64_t count() const { return count_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t numbers() const { return count_ * rows_ * cols_; }
  std::vector<Piece>& pieces() { return pieces_; }
  const std::vector<Piece>& pieces() const { return pieces_; }

  // Gives every piece FP32 memory of the weight's own (zeroed), and a gradient where asked.
  void own();
  void attach_gradient();
  bool owned() const { return master_.raw() != nullptr; }
  // All of it, FP32: [count * rows, cols], or [n] for a vector. Empty unless owned.
  const Tensor& master() const { return master_; }
  const Tensor& gradient() const { return gradient_; }

  // From now on the gradient is nothing: whoever comes first overwrites it.
  void clear_gradient();
  // Asked by whoever computes the whole gradient of a linear layer: whether to add to it.
  bool adds_to_gradient() { return std::exchange(has_gradient_, true); }
  // Zeroes a gradient that nobody wrote since it was cleared.
  void settle_gradient();

  // The i-th matrix's gradient, and its prepared operands.
  Tensor gradient(int64_t i) const { return gradient_.rows(i * rows_, rows_); }
  const ops::Packed& fprop(int64_t i = 0) const {
    MINKE_DCHECK(codes_.empty());
    return fprop_[static_cast<size_t>(i)];
  }
  const ops::Packed& dgrad(int64_t i = 0) const { return dgrad_[static_cast<size_t>(i)]; }
  // What a product reads: of this, and of the other side. In FP8 both are codes, and of integers
  // the other side is integers of 8 bits.
  DType operand(Precision p) const {
    return codes() || integers() ? pieces_.front().value.dtype() : other_side(p);
  }
  DType other_side(Precision p) const {
    if (integers()) return DType::kI8;
    if (kind_ == Kind::kGate) return DType::kF32;
    const bool quantized = p == Precision::kFp8 && kind_ == Kind::kLinear && !codes();
    return quantized ? DType::kE4M3 : dtype_of_precision(p);
  }
  // Whether it is codes of E4M3 with scales, as a file has them.
  bool codes() const { return !owned() && pieces_.front().value.dtype() == DType::kE4M3; }
  // Whether it is integers with scales (tensor/integers.h), as a file has them.
  bool integers() const { return !owned() && is_integers(pieces_.front().value.dtype()); }
  // Where the run quantises, every piece of a matrix is an operand of fprop; their rows follow each
  // other in dgrad's sum, and `segment` says where each ends (0: there is one).
  std::span<const ops::Packed> fprop_parts(int64_t i) const {
    const size_t each = fprop_.size() / static_cast<size_t>(count_);
    return std::span(fprop_).subspan(static_cast<size_t>(i) * each, each);
  }
  int64_t segment() const { return parts() == 1 ? 0 : rows_ / parts(); }

  // Where the operands of fprop are to lie, instead of in memory of the weight's own: packed_size()
  // bytes, aligned to 64.
  void place(Precision precision, std::byte* memory);
  // Appends what has to be packed for fprop (and dgrad); the memory is made at the first call.
  void add_pack_jobs(Precision precision, ScaleFormat scales, bool with_dgrad, PackJobs& jobs);
  size_t packed_size(Precision precision, bool with_dgrad) const;
  // Appends a step of AdamW, which packs the operands that have been prepared. m, v, and average
  // where there is one: shaped as master().
  void add_updates(const Tensor& m, const Tensor& v, const Tensor& average, float weight_decay,
                   std::vector<ops::AdamWUpdate>& updates) const;

 private:
  Tensor matrix_value(int64_t i, std::vector<OwnedTensor>& assembled) const;
  Tensor stacked(int64_t i, Tensor Piece::*part, std::vector<OwnedTensor>& assembled) const;
  void add_fprop_jobs(int64_t i, PackJobs& jobs) const;
  void make_scales();
  int64_t parts() const { return static_cast<int64_t>(pieces_.size()) / count_; }
  void make_operands(Precision precision, bool with_dgrad, size_t size);
  void quantize_into(ScaleFormat scales, bool with_dgrad, size_t size);

  Kind kind_ = Kind::kLinear;
  int64_t count_ = 0, rows_ = 0, cols_ = 0;
  std::vector<Piece> pieces_;
  OwnedTensor master_, gradient_, packed_memory_;
  OwnedTensor scales_;  // of a file's codes: [count, rows / tile, blocks of cols]
  std::vector<ops::Packed> fprop_, dgrad_;
  std::vector<ops::WeightCodes> codes_;  // one a piece, where the run quantises
  bool has_gradient_ = false;            // what gradient_ holds counts
};

}  // namespace minke::model

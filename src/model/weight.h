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

#include "ops/adamw.h"
#include "ops/matmul.h"

namespace minke::model {

enum class Precision { kF32, kBF16 };
// What activations are kept in, and what linear layers' operands are prepared in.
inline DType dtype_of_precision(Precision p) {
  return p == Precision::kF32 ? DType::kF32 : DType::kBF16;
}

struct Piece {
  std::string name;  // Hugging Face's
  Shape shape;       // [rows, cols], or [n] of a vector
  Tensor value;      // FP32, BF16, or E4M3 codes; empty until it is loaded or made
  Tensor scale;      // of codes: FP32, one for each block of 128x128
  Tensor grad;       // FP32; empty where nobody trains
};

class Weight {
 public:
  enum class Kind {
    kLinear,     // operands in the precision of the run
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
  const ops::Packed& fprop(int64_t i = 0) const { return fprop_[static_cast<size_t>(i)]; }
  const ops::Packed& dgrad(int64_t i = 0) const { return dgrad_[static_cast<size_t>(i)]; }
  // What a product reads: of this, and of the other side.
  DType operand(Precision p) const { return codes() ? DType::kE4M3 : other_side(p); }
  DType other_side(Precision p) const {
    return kind_ == Kind::kGate ? DType::kF32 : dtype_of_precision(p);
  }
  // Whether it is codes of E4M3 with scales, as a file has them.
  bool codes() const { return !owned() && pieces_.front().value.dtype() == DType::kE4M3; }

  // Where the operands of fprop are to lie, instead of in memory of the weight's own: packed_size()
  // bytes, aligned to 64.
  void place(Precision precision, std::byte* memory);
  // Appends what has to be packed for fprop (and dgrad); the memory is made at the first call.
  // `assembled` takes matrices whose pieces lie apart; it must live until the jobs are done.
  void add_pack_jobs(Precision precision, bool with_dgrad, std::vector<ops::PackJob>& by_rows,
                     std::vector<ops::PackJob>& by_columns, std::vector<OwnedTensor>& assembled);
  size_t packed_size(Precision precision, bool with_dgrad) const;
  // Appends a step of AdamW, which packs the operands that have been prepared. m, v, and average
  // where there is one: shaped as master().
  void add_updates(const Tensor& m, const Tensor& v, const Tensor& average, float weight_decay,
                   std::vector<ops::AdamWUpdate>& updates) const;

 private:
  Tensor matrix_value(int64_t i, std::vector<OwnedTensor>& assembled) const;
  void add_fprop_jobs(int64_t i, std::vector<ops::PackJob>& by_rows,
                      std::vector<OwnedTensor>& assembled) const;
  void make_scales();

  Kind kind_ = Kind::kLinear;
  int64_t count_ = 0, rows_ = 0, cols_ = 0;
  std::vector<Piece> pieces_;
  OwnedTensor master_, gradient_, packed_memory_;
  OwnedTensor scales_;  // of codes: [count, rows / tile, blocks of cols]
  std::vector<ops::Packed> fprop_, dgrad_;
  bool has_gradient_ = false;  // what gradient_ holds counts
};

}  // namespace minke::model

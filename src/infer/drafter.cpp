#include "infer/drafter.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "ops/elementwise.h"

namespace minke::infer {

Drafter::Drafter(model::Transformer& model, LatentCache& cache) : model_(model), cache_(cache) {
  const DType act = model::dtype_of_precision(model.precision());
  const int64_t D = model.config().hidden_size;
  kept_MD_ = OwnedTensor(act, {kMostRows, D});
  state_1D_ = OwnedTensor(act, {1, D});
  logits_1V_ = OwnedTensor(DType::kF32, {1, model.config().vocab_size});
}

void Drafter::see(std::span<const int32_t> text, const Tensor& state_MD, bool now,
                  const model::Pass& pass) {
  int64_t done = 0;
  if (now) {
    const int64_t known = static_cast<int64_t>(text.size()) - 1;
    catch_up(text, pass);
    done = std::min(known - seen_, state_MD.dim(0));
    if (done > 0) {
      run(state_MD.rows(0, done), text.subspan(static_cast<size_t>(seen_) + 1), seen_, pass);
      read_ = seen_ += done;
    }
  }
  keep(state_MD.rows(done, state_MD.dim(0) - done));
}

void Drafter::keep(const Tensor& state_MD) {
  const int64_t given = state_MD.dim(0), all = behind() + given;
  seen_ += given;
  if (all <= kMostRows) {
    if (given > 0) ops::convert(kept_MD_.rows(all - given, given), state_MD);
    return;
  }
  // It begins anew, with the last of them.
  const int64_t of_given = std::min(given, kLateRows), of_kept = kLateRows - of_given;
  const size_t row = kept_MD_.bytes() / static_cast<size_t>(kMostRows);
  const auto* kept = static_cast<const std::byte*>(kept_MD_.raw());
  std::memmove(kept_MD_.raw(), kept + static_cast<size_t>(all - given - of_kept) * row,
               static_cast<size_t>(of_kept) * row);
  ops::convert(kept_MD_.rows(of_kept, of_given), state_MD.rows(given - of_given, of_given));
  first_ = read_ = seen_ - kLateRows;
}

int64_t Drafter::truncate(int64_t length) {
  length = std::min(length, seen_);
  // A row that was read has met the token after it, which is another one now.
  if (read_ >= length) length = read_ = std::max<int64_t>(length - 1, 0);
  first_ = std::min(first_, read_);
  seen_ = length;
  return length;
}

void Drafter::run(const Tensor& state_MD, std::span<const int32_t> tokens, int64_t row,
                  const model::Pass& pass) {
  const int64_t M = state_MD.dim(0);
  model_.decode_mtp(state_1D_, state_MD, tokens.first(static_cast<size_t>(M)),
                    cache_.rows(row - first_, M), pass);
}

void Drafter::catch_up(std::span<const int32_t> text, const model::Pass& pass) {
  if (behind() == 0) return;
  run(kept_MD_.rows(0, behind()), text.subspan(static_cast<size_t>(read_) + 1), read_, pass);
  read_ = seen_;
}

std::vector<int32_t> Drafter::draft(std::span<const int32_t> text, int64_t width, Sampler& sampler,
                                    const model::Pass& pass) {
  const auto length = static_cast<int64_t>(text.size());
  MINKE_CHECK(width > 0 && seen_ == length - 1, "{} of {} seen", seen_, length);
  catch_up(text, pass);
  std::vector<int32_t> out;
  for (int64_t i = 0; i < width; ++i) {
    if (i > 0) run(state_1D_, std::span(&out.back(), 1), read_ + i - 1, pass);
    model_.logits(logits_1V_, state_1D_, pass);
    out.push_back(sampler.sample(logits_1V_.span<float>(), length + i));
  }
  return out;
}

}  // namespace minke::infer

// The whole model: embedding, blocks, final norm, head, and the multi-token prediction modules (V3
// report, section 2.2), which share embedding and head with the trunk.
#pragma once

#include <functional>
#include <span>

#include "model/block.h"

namespace minke::model {

// `sequences` rows of `row_tokens` tokens; the trunk reads the first `positions` of each, depth k
// of MTP as many (fewer where the row ends). A position's target counts only if it exists, lies
// in the same document and is to be predicted.
struct Batch {
  int64_t sequences = 0, positions = 0, row_tokens = 0;
  std::span<const int32_t> tokens;     // [sequences * row_tokens]
  std::span<const int32_t> documents;  // the same shape; empty: one document a row
  bool mask_documents = false;         // whether attention, too, stays within a document
  // As tokens: which of them are to be predicted; empty: all.
  std::span<const uint8_t> learned = {};

  int64_t positions_at(int64_t depth) const {
    return std::max<int64_t>(0, std::min(positions, row_tokens - depth));
  }
  // Targets of depth k (0: the next token), kIgnore where there is none; [sequences *
  // positions_at(k)].
  std::vector<int32_t> targets(int64_t depth) const;
};
int64_t count_valid(std::span<const int32_t> targets);

// One depth of multi-token prediction: h' = eh_proj [enorm(Emb(t_{i+k})) ; hnorm(h)], a block, a
// norm. Embedding first.
struct MtpModule {
  MtpModule(const ModelConfig& config, int64_t layer);
  RmsNorm enorm, hnorm, norm;  // norm: shared_head.norm
  Weight eh_proj;
  Block block;

  struct Saved {
    Tensor h_TD, input_T2D, x_out;  // h: the depth before, its rows that still have a token ahead
    RmsNorm::Saved enorm, hnorm, norm;
    Block::Saved block;
  };
};

class Transformer {
 public:
  Transformer(const ModelConfig& config, Precision precision);

  const ModelConfig& config() const { return config_; }
  Precision precision() const { return precision_; }
  // How operands are quantised where the precision is kFp8; set before anything is prepared.
  const ops::Fp8Recipe& fp8() const { return fp8_; }
  void set_fp8(const ops::Fp8Recipe& recipe) { fp8_ = recipe; }
  Pass pass(Arena& saved, Arena& scratch, Recompute recompute = Recompute::kNone) const {
    return {precision_, saved, scratch, recompute, fp8_};
  }

  // Every weight of the model, in a fixed order. The routers' biases are not weights: see
  // for_each_router.
  void for_each_weight(const std::function<void(Weight&)>& visit);
  void for_each_router(const std::function<void(int64_t layer, Router&)>& visit);

  // FP32 memory for every weight; normal with initializer_range, norms 1, biases 0; a stream a
  // tensor name.
  void initialize(uint64_t seed);
  // Gradients for every (owned) weight, zeroed.
  void attach_gradients();
  void clear_gradients();
  // Packs the operands of every linear layer; to be called after weights change. training: for
  // dgrad too.
  void prepare(bool training);
  // Packs what decode() reads besides.
  void prepare_decode();
  size_t packed_size(bool training);
  // For inference alone, in memory of the caller's (aligned to 64): all that prepare() and
  // prepare_decode() pack. pack_operands() goes weight by weight, and tells of each that is done:
  // what it was packed from is not read again.
  size_t operand_bytes();
  void place_operands(std::byte* memory);
  void pack_operands(const std::function<void(const Weight& done)>& on_weight);

  // What one forward leaves for its backward.
  struct Saved {
    std::vector<std::vector<int32_t>> position, first;  // by depth
    std::vector<Layout> layout;
    std::vector<Block::Saved> blocks;
    Tensor x_out;
    RmsNorm::Saved norm;
    std::vector<MtpModule::Saved> mtp;
    std::vector<Tensor> hidden;   // by depth: what the head reads, activation type
    std::vector<double> balance;  // by MoE layer in order: sum over sequences
  };
  struct Options {
    std::span<const Tensor>
        forced_experts;     // by layer (empty tensors where free or dense); may be empty
    bool counting = false;  // add to the routers' counts
    int64_t depths = -1;    // MTP depths to run; -1: all
  };
  void forward(const Batch& batch, const Options& options, Saved& saved, const Pass& pass);
  // dhidden: by depth, FP32 [T_k, D]; overwritten. balance_scale multiplies every layer's and
  // sequence's balance loss.
  void backward(const Batch& batch, std::span<const Tensor> dhidden, float balance_scale,
                Saved& saved, const Pass& pass);

  struct DepthLoss {
    double sum = 0;  // of -log p over valid positions
    int64_t valid = 0;
  };
  struct Losses {
    std::vector<DepthLoss> depth;
    double balance = 0;  // summed over sequences and layers
  };
  // Gradients += those of sum_k scale[k] * (sum of depth k's losses) + balance_scale * (sum of
  // balance losses); counts += too.
  Losses forward_backward(const Batch& batch, std::span<const float> scale, float balance_scale,
                          const Options& options, const Pass& pass);
  // Per token, by depth where given: -log p of the target and the most likely token.
  Losses evaluate(const Batch& batch, const Options& options,
                  std::span<const std::span<float>> loss,
                  std::span<const std::span<int32_t>> argmax, const Pass& pass);

  // logits_MV FP32 of hidden_MD (activation type).
  void logits(const Tensor& logits_MV, const Tensor& hidden_MD, const Pass& pass) const;
  // Experts of a decode, by layer of the trunk: I32 [M, K] (of the last layer [A, K]), ascending in
  // a row; empty tensors, or none at all, where the router chooses and nobody asks.
  struct DecodeRoutes {
    std::span<const Tensor> forced;  // to use instead of choosing
    std::span<const Tensor> chosen;  // to be told what was used
  };
  // The trunk on M rows of caches; hidden_AD, of the activation type, normed for the head, are the
  // last ones' states, as many as anyone asks for: in the last layer those before only leave their
  // latents.
  void decode(const Tensor& hidden_AD, std::span<const int32_t> tokens,
              std::span<const CacheRow> rows, const DecodeRoutes& routes, const Pass& pass);
  void decode(const Tensor& hidden_AD, std::span<const int32_t> tokens,
              std::span<const CacheRow> rows, const Pass& pass) {
    decode(hidden_AD, tokens, rows, DecodeRoutes(), pass);
  }
  bool has_mtp() const { return !mtp_.empty(); }
  // The first MTP module on rows of caches: from the state of a token and the token after it, the
  // state whose logits are of the token after both. The module's latents are its own layer's of the
  // caches. hidden_AD, the last rows' states, and state_MD: as decode()'s hidden_AD; they may be
  // the same. Rows before hidden_AD's only leave their latents.
  void decode_mtp(const Tensor& hidden_AD, const Tensor& state_MD, std::span<const int32_t> tokens,
                  std::span<const CacheRow> rows, const Pass& pass);

 private:
  void forward_block(Block& block, const Tensor& x, const Layout& layout, const Options& options,
                     Block::Saved& saved, Saved& s, const Pass& pass);
  void forward_trunk(const Batch& batch, const Options& options, Saved& s, const Pass& pass);
  void forward_mtp(const Batch& batch, int64_t k, const Options& options, Saved& s,
                   const Pass& pass);
  void head_losses(const Batch& batch, std::span<const float> scale, Saved& saved,
                   std::span<const Tensor> dhidden, std::span<const std::span<float>> loss,
                   std::span<const std::span<int32_t>> argmax, Losses& out, const Pass& pass);
  void reserve_tables(std::span<const CacheRow> rows);
  void for_each_mla(const std::function<void(Mla&)>& visit);

  ModelConfig config_;
  Precision precision_;
  ops::Fp8Recipe fp8_;
  RopeTables tables_;
  Weight embedding_, head_;
  std::vector<Block> blocks_;
  RmsNorm norm_;
  std::vector<MtpModule> mtp_;
};

}  // namespace minke::model

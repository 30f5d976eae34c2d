// One optimizer step after another: gradients of a whole batch in micro-batches, clipping, AdamW,
// the routers' bias update.
//
// A step depends on its number, the weights, the moments and the data alone, so a run that stops
// and resumes computes the same bytes as one that never stopped, for any number of threads.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "model/memory.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/spike_guard.h"

namespace minke::train {

// Fills row `index` (from 0, endless) of the training data: positions + 1 + MTP depths tokens, and
// the document each lies in.
using RowSource =
    std::function<void(int64_t index, std::span<int32_t> tokens, std::span<int32_t> documents)>;

// Fills the flags of row `index`: which of its tokens are to be predicted.
using LearnedSource = std::function<void(int64_t index, std::span<uint8_t> learned)>;

struct RouterLoad {
  int64_t layer = 0;
  std::vector<int64_t> counts;  // tokens each expert got in the step
  std::vector<float> bias;      // after the step's update; empty where the router has none
  // max_i count_i / mean(count) - 1 (LF paper).
  double max_vio() const;
  // Experts that got nothing.
  int64_t dead() const;
};
double worst_max_vio(const std::vector<RouterLoad>& routers);
int64_t dead_experts(const std::vector<RouterLoad>& routers);
// What every router of the model counted since its counts were last cleared, and its bias.
std::vector<RouterLoad> router_loads(model::Transformer& model);
void clear_router_counts(model::Transformer& model);

struct StepReport {
  int64_t step = 0;
  double loss = 0;               // mean over valid positions, natural logarithm
  std::vector<double> mtp_loss;  // of depth 1, 2, ...
  double balance = 0;            // mean over sequences, sum over layers, without alpha
  double learning_rate = 0, gradient_norm = 0;
  bool clipped = false;
  int64_t batch = 0, tokens = 0;  // sequences, and their positions
  std::vector<RouterLoad> routers;
  std::vector<ModuleNorms> modules;   // where asked for
  std::optional<double> shadow_loss;  // of the same step in BF16, where --shadow-bf16 asks for it
  SpikeScore spike;                   // one: the step changed no weight, moment or bias
};

class Trainer {
 public:
  // The model is initialised, or loaded, by the caller; it is prepared for training here. Without
  // `learned` all tokens are to be predicted.
  Trainer(model::Transformer& model, const Options& options, RowSource rows,
          LearnedSource learned = {});

  // Computes step done() + 1. Where the loss or a gradient is not finite, or is a spike to
  // --on-spike, weights stay as they were; then the step is done with where spikes are skipped, and
  // Error without --on-spike. With norms by module it takes a little longer, and computes the same.
  // Pieces that a profile sees: data, forward, loss, backward, update.
  enum class Look { kUsual, kModules };
  StepReport step(Look look = Look::kUsual);

  int64_t done() const { return done_; }
  // Besides weights and moments, all that decides what comes next.
  struct Position {
    int64_t done = 0;
    int64_t updates = 0;           // of the weights: steps that were not skipped
    int64_t rows_passed_over = 0;  // of the training data, since a rollback left them out
    SpikeGuard::Steps steps;
  };
  Position position() const { return {done_, updates_, rows_passed_over_, guard_.steps()}; }
  void resume_at(Position position);
  Optimizer& optimizer() { return optimizer_; }
  const Options& options() const { return options_; }
  const Schedule& schedule() const { return schedule_; }
  // A pass of this trainer's memory, for evaluation between steps.
  model::Pass pass() { return model_.pass(saved_, scratch_, options_.recompute); }
  size_t peak_activations() const { return saved_.peak(); }
  size_t peak_workspace() const { return scratch_.peak(); }

 private:
  // The rows of a step, one after the other.
  struct Rows {
    int64_t row_tokens = 0;
    std::vector<int32_t> tokens, documents;
    std::vector<uint8_t> learned;
  };
  Rows read_rows(int64_t count) const;
  model::Batch part(const Rows& rows, int64_t first, int64_t count) const;
  std::vector<model::Batch> micro_batches(const Rows& rows, int64_t batch) const;
  std::vector<float> loss_scales(const model::Batch& batch, int64_t step) const;
  // Gradients, and the report's losses. False: something is not finite, and they are not whole.
  bool compute_gradients(const Rows& rows, StepReport& report);
  void score(StepReport& report);
  void update(StepReport& report, Look look);

  model::Transformer& model_;
  Options options_;
  Schedule schedule_;
  RowSource rows_;
  LearnedSource learned_;
  Optimizer optimizer_;
  Arena saved_, scratch_;
  int64_t done_ = 0, updates_ = 0, rows_passed_over_ = 0;
  SpikeGuard guard_;
};

// Sequences computed at once.
int64_t micro_batch(const Options& options);

// What a run with these options takes.
model::StepMemory step_memory(const model::ModelConfig& config, const Options& options);

}  // namespace minke::train

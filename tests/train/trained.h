// A tiny model that was trained, and what a checkpoint of it is.
#pragma once

#include "train/state.h"
#include "train/tiny.h"

namespace minke::train {

inline const RunIdentity kIdentity = {"data", "tokenizer", "isa"};

// After some steps, at a gamma that gives the biases bits beyond BF16's.
struct Trained {
  checkpoint::HfConfig config;
  model::Transformer model;
  Trainer trainer;
  explicit Trained(int steps, double ema = 0)
      : model(tiny_config(), model::Precision::kBF16),
        trainer(start(model), options(ema), counting_rows) {
    config.model = tiny_config();
    for (int i = 0; i < steps; ++i) trainer.step();
  }
  static model::Transformer& start(model::Transformer& m) {
    m.initialize(7);
    return m;
  }
  static Options options(double ema) {
    Options o = tiny_options();
    o.ema = ema;
    o.gamma = 1.0 / 3;
    return o;
  }
  Snapshot snapshot() { return {model, config, trainer, kIdentity, "no tokenizer"}; }
  void save(const fs::path& folder) { snapshot().write(folder); }
};

}  // namespace minke::train

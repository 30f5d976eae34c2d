// A task small enough for a test: rows count upwards, so the next token is always the
// last one plus its document's stride.
#pragma once

#include <cstring>

#include "model/transformer.h"
#include "tiny_config.h"
#include "train/trainer.h"

namespace minke::train {

using model::tiny_config;

inline Options tiny_options() {
  Options o;
  o.data = {"-"};
  o.steps = 12;
  o.batch = 8;
  o.seq = 12;
  o.lr = 1e-2;
  o.warmup = 3;
  o.precision = model::Precision::kF32;
  return o;
}

// Documents of uneven length: their borders differ from row to row.
inline void counting_rows(int64_t index, std::span<int32_t> tokens, std::span<int32_t> documents) {
  int32_t document = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && (i + static_cast<size_t>(index)) % 7 == 0) ++document;
    documents[i] = document;
    tokens[i] = static_cast<int32_t>((static_cast<size_t>(index) * 5 + i) % 37);
  }
}

// All weights, moments, biases and averages, byte for byte.
inline std::vector<std::byte> state_bytes(model::Transformer& model, Trainer& trainer) {
  std::vector<std::byte> out;
  const auto add = [&](const Tensor& t) {
    const auto* p = static_cast<const std::byte*>(t.raw());
    out.insert(out.end(), p, p + t.bytes());
  };
  model.for_each_weight([&](model::Weight& w) { add(w.master()); });
  model.for_each_router([&](int64_t, model::Router& r) { add(r.bias_E); });
  for (const auto& moments : trainer.optimizer().moments()) {
    add(moments.m);
    add(moments.v);
  }
  for (const auto& average : trainer.optimizer().averages().weights) add(average);
  for (const auto& average : trainer.optimizer().averages().biases) add(average);
  return out;
}

}  // namespace minke::train

// The loss that a model which trains in FP8 has in BF16: what the rounding of its products costs.
#pragma once

#include <functional>

#include "model/transformer.h"

namespace minke::train {

// The mean loss of the next token over `batches`. Weights are read where they lie; operands in BF16
// are made for the moment. pass: memory alone.
double loss_in_bf16(model::Transformer& model, std::span<const model::Batch> batches,
                    const model::Pass& pass);
// What those operands take.
size_t bf16_operand_bytes(const model::ModelConfig& config);

}  // namespace minke::train

// Speed of a model that writes: prefill and decode, as shares of multiply-adds and of memory.
#pragma once

#include <cstdint>
#include <vector>

#include "base/profile.h"
#include "infer/loaded_model.h"

namespace minke::study {

struct DecodeBench {
  int64_t prompt = 0, text = 0;  // tokens of a burst
  // Tokens/s, of the burst whose share is the median: of all rows in every layer, which is what an
  // inner layer does, so a model's first layers measure the model; and without those of the last
  // layer that nobody reads, which is what a text takes.
  double prefill_rate = 0, read_prefill_rate = 0;
  double prefill_flops = 0;  // FLOP/s: 2 for each active parameter without embedding and head
  double prefill_peak = 0;   // FLOP/s of multiply-adds
  double prefill_share = 0;
  double decode_rate = 0;   // tokens/s, of the burst whose share is the median
  double token_bytes = 0;   // read for a token: active weights as prepared, and the latent cache
  double read = 0;          // bytes/s of reading as many bytes of the model's own pages
  double decode_share = 0;  // of decode_rate * token_bytes in `read`
  double large_pages = 0;   // the share of the packed file that large pages map; 0 without one
  // Where the time of one prompt, and of one decoded token, goes.
  struct Ops {
    double seconds = 0;
    std::vector<ProfileEntry> ops;
  };
  Ops prefill_ops, decode_ops;
};

// Error where so many tokens are more than the model reads.
void check_decode_bench(const model::ModelConfig& config, int64_t prompt, int64_t text);
// Bursts of a random prompt and its greedy continuation.
DecodeBench bench_decode(infer::LoadedModel& loaded, int64_t prompt, int64_t text,
                         int64_t prefill_rows);

}  // namespace minke::study

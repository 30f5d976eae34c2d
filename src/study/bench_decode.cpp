#include "study/bench_decode.h"

#include <algorithm>

#include "base/clock.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/rng.h"
#include "infer/generation.h"
#include "model/cost.h"
#include "study/decode_bytes.h"
#include "study/peak.h"

namespace minke::study {
namespace {

constexpr int kBursts = 7;

// What `work` does, a `steps`-th of it.
template <typename Work>
DecodeBench::Ops profiled(double steps, Work&& work) {
  start_profile();
  const double whole = seconds_of(work);
  DecodeBench::Ops out{whole / steps, finish_profile()};
  for (ProfileEntry& op : out.ops) op.seconds /= steps;
  return out;
}

// Where the median of these is.
size_t middle(const std::vector<double>& x) {
  return static_cast<size_t>(std::ranges::find(x, median(x)) - x.begin());
}

}  // namespace

void check_decode_bench(const model::ModelConfig& config, int64_t prompt, int64_t text) {
  if (prompt + text > config.max_position_embeddings) {
    fail("{} tokens of prompt and {} of text are more than the model's {}", prompt, text,
         config.max_position_embeddings);
  }
}

DecodeBench bench_decode(infer::LoadedModel& loaded, int64_t prompt, int64_t text,
                         int64_t prefill_rows) {
  const model::ModelConfig& config = loaded.config.model;
  check_decode_bench(config, prompt, text);
  MINKE_CHECK(prompt >= 1 && text >= 2);
  infer::Generator::Options how;
  how.context = prompt + text;
  how.prefill_rows = prefill_rows;
  infer::Generator reader(*loaded.model, how);
  how.unread_rows = true;
  infer::Generator generator(*loaded.model, how);

  const model::Parameters active = model::count_parameters(config).active;
  const DecodeBytes bytes_read = decode_bytes(*loaded.model);
  const double positions = static_cast<double>(prompt) + static_cast<double>(text) / 2;
  DecodeBench out;
  out.prompt = prompt;
  out.text = text;
  out.token_bytes = bytes_read.trunk + bytes_read.head +
                    static_cast<double>(config.num_experts_per_tok) * bytes_read.trunk_expert +
                    positions * bytes_read.cache;
  // What is read is the model's own pages, as many as a token takes.
  const std::span<const std::byte> operands = loaded.operands();
  const std::span<const std::byte> bytes =
      operands.first(std::min(operands.size(), static_cast<size_t>(out.token_bytes)));
  const Limit limit = loaded.model->precision() == model::Precision::kF32 ? Limit::kComputeF32
                                                                          : Limit::kComputeBF16;
  const double flops = 2 * static_cast<double>(active.without_embedding_and_head());

  const auto random_tokens = [&](int burst) {
    std::vector<int32_t> tokens(static_cast<size_t>(prompt));
    Rng rng(stream_key(1, static_cast<uint64_t>(burst), "bench.prompt"));
    for (int32_t& t : tokens) {
      t = static_cast<int32_t>(rng.below(static_cast<uint64_t>(config.vocab_size)));
    }
    return tokens;
  };
  const auto generate = [&](infer::Generator& by, const std::vector<int32_t>& tokens,
                            int64_t length) {
    infer::Sampling greedy;
    greedy.temperature = 0;
    return by.generate(
        tokens, greedy, length, [](int32_t) {}, [] { return false; });
  };

  std::vector<double> prefill, read_prefill, prefill_shares, decode, decode_shares, reads, peaks;
  for (int burst = 0; burst <= kBursts; ++burst) {
    stop_if_interrupted();
    const std::vector<int32_t> tokens = random_tokens(burst);
    const double peak = peak_flops(limit), read = read_bandwidth(bytes);
    const infer::Generation g = generate(generator, tokens, text);
    if (burst == 0) continue;  // faults pages
    peaks.push_back((peak + peak_flops(limit)) / 2);
    reads.push_back((read + read_bandwidth(bytes)) / 2);
    prefill.push_back(g.prefill_rate());
    prefill_shares.push_back(g.prefill_rate() * flops / peaks.back());
    decode.push_back(g.decode_rate());
    decode_shares.push_back(g.decode_rate() * out.token_bytes / reads.back());
    read_prefill.push_back(generate(reader, tokens, 1).prefill_rate());
  }
  // Memory changes its speed from burst to burst: figures that stand together are of one.
  const size_t prefilled = middle(prefill_shares), decoded = middle(decode_shares);
  out.prefill_rate = prefill[prefilled];
  out.read_prefill_rate = median(read_prefill);
  out.prefill_flops = out.prefill_rate * flops;
  out.prefill_peak = peaks[prefilled];
  out.prefill_share = prefill_shares[prefilled];
  out.decode_rate = decode[decoded];
  out.read = reads[decoded];
  out.decode_share = decode_shares[decoded];
  if (loaded.packed) {
    out.large_pages =
        static_cast<double>(large_page_bytes(operands)) / static_cast<double>(operands.size());
  }

  // A second text of the same prompt computes nothing but rows alone: the prompt's last, and its
  // own.
  const std::vector<int32_t> tokens = random_tokens(kBursts + 1);
  out.prefill_ops = profiled(1, [&] { generate(generator, tokens, 1); });
  out.decode_ops = profiled(static_cast<double>(text), [&] { generate(generator, tokens, text); });
  return out;
}

}  // namespace minke::study

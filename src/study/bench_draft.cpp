#include "study/bench_draft.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "infer/generation.h"
#include "study/decode_bytes.h"
#include "study/peak.h"

namespace minke::study {
namespace {

using infer::DraftWidth;
using infer::Generation;
using infer::Generator;

constexpr int kDraftBursts = 9;
constexpr int64_t kPlaces = 24;  // of a text, where the parts of a step are timed

// Reads a text with trunk and drafter.
class Reader {
 public:
  Reader(model::Transformer& model, std::span<const int32_t> tokens)
      : model_(model),
        tokens_(tokens),
        cache_(model.config(), model.precision(), model.config().num_hidden_layers + 1,
               static_cast<int64_t>(tokens.size())),
        drafter_(model, cache_),
        hidden_MD_(model::dtype_of_precision(model.precision()),
                   {kRows, model.config().hidden_size}),
        logits_MV_(DType::kF32, {kRows, model.config().vocab_size}) {}

  void read(int64_t rows) {
    step(rows, {});
    const Arena::Scope saved(saved_), scratch(scratch_);
    drafter_.see(known(), hidden_MD_.rows(0, rows), false, pass());
    drafter_.catch_up(known(), pass());
  }
  // Seconds to verify the next `rows` rows; the text stays where it is. experts: see VerifiedRows.
  double verify(int64_t rows, double& experts) {
    const model::ModelConfig& c = model_.config();
    std::vector<OwnedTensor> chosen;
    for (int64_t n = c.first_k_dense_replace; n < c.num_hidden_layers; ++n) {
      chosen.emplace_back(DType::kI32, Shape{rows, c.num_experts_per_tok});
    }
    std::vector<Tensor> by_layer(static_cast<size_t>(c.first_k_dense_replace));
    by_layer.insert(by_layer.end(), chosen.begin(), chosen.end());
    const double seconds = seconds_of([&] { step(rows, {{}, by_layer}); });
    cache_.truncate(cache_.length() - rows);
    experts = 0;
    for (const Tensor& layer : chosen) {
      const auto ids = layer.span<int32_t>();
      experts += static_cast<double>(std::set<int32_t>(ids.begin(), ids.end()).size()) /
                 static_cast<double>(chosen.size());
    }
    return seconds;
  }
  // Seconds to draft `width` tokens after a step that gave `rows`; the text stays where it is.
  double draft(int64_t width, int64_t rows) {
    const int64_t here = cache_.length();
    step(rows, {});
    const Arena::Scope saved(saved_), scratch(scratch_);
    drafter_.see(known(), hidden_MD_.rows(0, rows), false, pass());
    infer::Sampler greedy({.temperature = 0}, model_.config().vocab_size);
    const double seconds = seconds_of([&] { drafter_.draft(known(), width, greedy, pass()); });
    cache_.truncate(drafter_.truncate(here));
    read(here - cache_.length());
    return seconds;
  }

 private:
  static constexpr int64_t kRows = DraftWidth::kMost + 1;

  std::span<const int32_t> known() const {
    return tokens_.first(static_cast<size_t>(cache_.length()) + 1);
  }
  model::Pass pass() { return {model_.precision(), saved_, scratch_}; }
  void step(int64_t rows, const model::Transformer::DecodeRoutes& routes) {
    const Arena::Scope saved(saved_), scratch(scratch_);
    model_.decode(hidden_MD_.rows(0, rows),
                  tokens_.subspan(static_cast<size_t>(cache_.length()), static_cast<size_t>(rows)),
                  cache_.next_rows(rows), routes, pass());
    model_.logits(logits_MV_.rows(0, rows), hidden_MD_.rows(0, rows), pass());
    cache_.advance(rows);
  }

  model::Transformer& model_;
  std::span<const int32_t> tokens_;
  infer::LatentCache cache_;
  infer::Drafter drafter_;
  Arena saved_{size_t{1} << 32}, scratch_{size_t{1} << 32};  // what is not written is never had
  OwnedTensor hidden_MD_, logits_MV_;
};

// Whole texts, by width from kAutoDraft on. All widths of a burst follow each other, so that a
// neighbour of the machine slows them alike. Returns the last text.
std::vector<int32_t> write_texts(model::Transformer& model, std::span<const int32_t> tokens,
                                 int64_t prompt, int64_t text, const infer::Sampling& sampling,
                                 std::vector<DraftWidthBench>& widths) {
  std::vector<std::unique_ptr<Generator>> generators;
  std::vector<Generation> sums;
  std::vector<std::vector<double>> gains;
  for (const DraftWidthBench& b : widths) {
    const Generator::Options how{.context = prompt + text, .draft = b.width};
    generators.push_back(std::make_unique<Generator>(model, how));
  }
  sums.resize(widths.size());
  gains.resize(widths.size());
  std::vector<int32_t> written;
  const size_t stride = std::max<size_t>(tokens.size() / (kDraftBursts + 1), 1);
  for (int burst = 0; burst <= kDraftBursts; ++burst) {
    written.clear();
    for (int64_t i = 0; i < prompt; ++i) {
      const size_t at = static_cast<size_t>(burst) * stride + static_cast<size_t>(i);
      written.push_back(tokens[at % tokens.size()]);
    }
    std::vector<Generation> answers;
    for (const auto& generator : generators) {
      answers.push_back(generator->generate(
          written, sampling, text, [](int32_t) {}, [] { return false; }));
      MINKE_CHECK(answers.back().tokens == answers.front().tokens, "drafts changed a text");
    }
    const double plain = answers[1].decode_rate();  // width 0
    written.insert(written.end(), answers[0].tokens.begin(), answers[0].tokens.end());
    if (burst == 0) continue;  // faults pages
    for (size_t w = 0; w < widths.size(); ++w) {
      gains[w].push_back(answers[w].decode_rate() / plain);
      sums[w].steps += answers[w].steps;
      sums[w].decoded += answers[w].decoded;
      auto& drafts = sums[w].drafts;
      drafts.resize(std::max(drafts.size(), answers[w].drafts.size()));
      for (size_t i = 0; i < answers[w].drafts.size(); ++i) {
        drafts[i].made += answers[w].drafts[i].made;
        drafts[i].accepted += answers[w].drafts[i].accepted;
      }
    }
  }
  for (size_t w = 0; w < widths.size(); ++w) {
    widths[w].tokens = static_cast<double>(sums[w].decoded) / static_cast<double>(sums[w].steps);
    widths[w].gain = median(gains[w]);
    for (const Generation::Drafts& d : sums[w].drafts) {
      widths[w].accepted.push_back(static_cast<double>(d.accepted) / static_cast<double>(d.made));
    }
  }
  return written;
}

}  // namespace

DraftBench bench_draft(infer::LoadedModel& loaded, std::span<const int32_t> tokens, int64_t prompt,
                       int64_t text, const infer::Sampling& sampling) {
  model::Transformer& model = *loaded.model;
  MINKE_CHECK(model.has_mtp() && prompt > 0 && !tokens.empty());
  DraftBench out;
  for (int64_t width = Generator::kAutoDraft; width <= DraftWidth::kMost; ++width) {
    out.widths.push_back({.width = width});
  }
  const std::vector<int32_t> written =
      write_texts(model, tokens, prompt, text, sampling, out.widths);

  Reader reader(model, written);
  for (int64_t at = 0; at < prompt; ++at) reader.read(1);
  std::vector<std::vector<double>> verify(DraftWidth::kMost + 2), draft(DraftWidth::kMost + 1);
  std::vector<double> experts(verify.size());
  const int64_t places = std::min(kPlaces, text - 2 * (DraftWidth::kMost + 1));
  MINKE_CHECK(places > 0, "a text of {}", text);
  for (int64_t place = 0; place < places; ++place) {
    for (size_t rows = 1; rows < verify.size(); ++rows) {
      double read = 0;
      verify[rows].push_back(reader.verify(static_cast<int64_t>(rows), read));
      experts[rows] += read / static_cast<double>(places);
    }
    for (const DraftWidthBench& b : out.widths) {
      if (b.width < 1) continue;
      const int64_t given = std::llround(b.tokens);
      draft[static_cast<size_t>(b.width)].push_back(reader.draft(b.width, given));
    }
    reader.read(1);
  }

  const DecodeBytes bytes = decode_bytes(model);
  const double positions = static_cast<double>(prompt) + static_cast<double>(text) / 2;
  for (size_t rows = 1; rows < verify.size(); ++rows) {
    out.rows.push_back({.rows = static_cast<int64_t>(rows),
                        .experts = experts[rows],
                        .bytes = bytes.trunk + bytes.head + experts[rows] * bytes.trunk_expert +
                                 positions * bytes.cache,
                        .seconds = median(verify[rows])});
  }
  const VerifiedRows& one = out.rows.front();
  for (DraftWidthBench& b : out.widths) {
    if (b.width < 1) continue;
    const auto passes = static_cast<double>(b.width);
    b.bytes = passes * (bytes.mtp + bytes.head + one.experts * bytes.mtp_expert +
                        positions * bytes.mtp_cache);
    b.seconds = median(draft[static_cast<size_t>(b.width)]);
    const VerifiedRows& all = out.rows[static_cast<size_t>(b.width)];
    b.ceiling_bytes = b.tokens * one.bytes / (all.bytes + b.bytes);
    b.ceiling_seconds = b.tokens * one.seconds / (all.seconds + b.seconds);
  }
  return out;
}

}  // namespace minke::study

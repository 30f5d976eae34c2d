#include <algorithm>
#include <cmath>
#include <limits>

#include "ref/router.h"
#include "study/verify_bounds.h"
#include "study/verify_routes.h"
#include "study/verify_table.h"

namespace minke::study {
namespace {

class RoundedVerification {
 public:
  RoundedVerification(const GoldenFolder& folder, Engine& engine, const Rounding& rounding)
      : folder_(folder),
        engine_(engine),
        rounding_(rounding),
        summed_in_f32_(f32_rounding(folder.config.model, folder.batch).size),
        model_(folder.config.model, read_weights(*folder.files, folder.config.model)),
        how_(reference_routing(folder.config.model)) {}

  Verification run() {
    forced();
    decoded();
    free();
    text();
    return table_.finish();
  }

 private:
  // With the oracle's experts.
  void forced() {
    ReferenceOptions options;
    options.gradients = folder_.has_gradients();
    options.forced = folder_.golden.experts;
    exact_ = model_.run(folder_.batch, options);
    const ReferenceResult got = engine_.run(exact_.experts);

    Values want = folder_.golden.numbers;
    ReferenceResult counted_alike;
    const int64_t other = adopt_fractions(got, options);
    if (other > 0) {
      counted_alike = model_.run(folder_.batch, options);
      for (auto& [name, numbers] : want) {
        if (follows_fractions(name)) numbers = counted_alike.numbers.at(name);
      }
    }
    const Bounds bounds = derive_bounds(model_, folder_.batch, options,
                                        other > 0 ? counted_alike : exact_, rounding_);
    compare_numbers(table_, got, want, folder_,
                    [&](const std::string& name) { return relative_bound(bounds, name); });
    if (other > 0) judge_reference(bounds);
    if (other > 0) judge_fractions(got, bounds, other);
  }

  // What BF16 does not touch is still summed up in FP32.
  double relative_bound(const Bounds& bounds, const std::string& name) const {
    return bounds.relative.at(name) + summed_in_f32_;
  }
  static bool follows_fractions(const std::string& name) {
    return name == "balance" || name == "total" || name.starts_with("grad.");
  }
  // Where the reference stands in for the oracle, it must agree with it.
  void judge_reference(const Bounds& bounds) {
    for (const auto& [name, numbers] : folder_.golden.numbers) {
      if (!follows_fractions(name)) continue;
      table_.add("reference for the balance", name,
                 relative_error(exact_.numbers.at(name), numbers), relative_bound(bounds, name));
    }
  }

  // The unbiased, ungrouped choice that the balance loss counts.
  std::vector<int32_t> counted(std::span<const double> scores) const {
    return ref::largest(scores, how_.chosen);
  }
  // Calls visit(layer, scores of got, scores of the reference, sequence) for every token of every
  // MoE layer.
  template <typename Visit>
  void for_each_scores(const ReferenceResult& got, Visit&& visit) const {
    for (const auto& [layer, experts] : exact_.experts) {
      const auto& mine = got.numbers.at(route_name(layer, "scores"));
      const auto& exact = exact_.numbers.at(route_name(layer, "scores"));
      const int64_t T = std::ssize(mine) / how_.experts;
      for (int64_t t = 0; t < T; ++t) {
        const auto row = [&](const std::vector<double>& of) {
          return std::span(of).subspan(t * how_.experts, how_.experts);
        };
        visit(layer, row(mine), row(exact), t / (T / folder_.batch.sequences));
      }
    }
  }

  // Where the engine counts another expert, the reference is to count it, too. Returns how many.
  int64_t adopt_fractions(const ReferenceResult& got, ReferenceOptions& options) const {
    int64_t other = 0;
    for_each_scores(got, [&](int64_t, auto mine, auto exact, int64_t) {
      if (counted(mine) != counted(exact)) ++other;
    });
    if (other == 0) return 0;
    for (const auto& [layer, experts] : exact_.experts) {
      const auto& scores = got.numbers.at(route_name(layer, "scores"));
      std::vector<double> f(folder_.batch.sequences * how_.experts);
      const int64_t T = std::ssize(scores) / how_.experts;
      ref::balance_fractions(f, scores, folder_.batch.sequences, T / folder_.batch.sequences, how_);
      options.fractions[route_name(layer, "fractions")] = std::move(f);
    }
    return other;
  }

  void judge_fractions(const ReferenceResult& got, const Bounds& bounds, int64_t other) {
    ref::Routing plain = how_;
    plain.method = ref::TopkMethod::kGreedy;
    Worst worst;
    for_each_scores(got, [&](int64_t layer, auto mine, auto exact, int64_t) {
      worst.add(smallest_score_error(counted(mine), exact, {}, plain),
                bounds.absolute.at(route_name(layer, "scores")), fmt::format("layer {}", layer));
    });
    table_.add({"experts counted for balance", 1, worst.error, worst.bound, worst.where,
                fmt::format("{} counted otherwise", other)});
  }

  void decoded() {
    const std::vector<int64_t> lengths = engine_.decoded_lengths();
    const auto only = [&](Values& numbers) {
      keep_decoded(numbers, lengths, folder_.batch.positions);
    };
    ReferenceOptions options = as_decoded({});
    options.forced = exact_.experts;
    const ReferenceResult exact = model_.run(folder_.batch, options);
    const Bounds bounds = derive_bounds(model_, folder_.batch, options, exact, rounding_, only);
    compare_decoded(
        table_, engine_.run_decoded(exact_.experts), folder_,
        [&](const std::string& name) { return relative_bound(bounds, name); }, lengths);
  }

  struct Worst {
    double error = 0, bound = 0;
    std::string where;
    void add(double its_error, double its_bound, std::string its_where) {
      if (!(its_error > 0) || its_error / its_bound <= (bound == 0 ? 0 : error / bound)) return;
      error = its_error;
      bound = its_bound;
      where = std::move(its_where);
    }
  };

  // How often the engine's experts are not those that the reference, with the engine's in all
  // layers before, chooses.
  struct OtherChoices {
    int64_t count = 0, of = 0;
    int64_t first_row = std::numeric_limits<int64_t>::max();  // the first token with one
  };
  OtherChoices count_other(const ReferenceResult& exact) const {
    OtherChoices out;
    for_each_choice(exact, [&](int64_t, int64_t row, double error) {
      ++out.of;
      if (error == 0) return;
      ++out.count;
      out.first_row = std::min(out.first_row, row);
    });
    return out;
  }
  // Calls visit(layer, row, the score error that explains the choice) for every choice.
  template <typename Visit>
  void for_each_choice(const ReferenceResult& exact, Visit&& visit) const {
    for (const auto& [layer, experts] : exact.experts) {
      const auto& scores = exact.numbers.at(route_name(layer, "scores"));
      const auto bias = model_.weights().find(
          fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", layer));
      const std::vector<double> none;
      for (int64_t t = 0; t < std::ssize(experts) / how_.chosen; ++t) {
        visit(layer, t,
              smallest_score_error(std::span(experts).subspan(t * how_.chosen, how_.chosen),
                                   std::span(scores).subspan(t * how_.experts, how_.experts),
                                   bias == model_.weights().end() ? none : bias->second, how_));
      }
    }
  }
  void judge_choices(const char* quantity, const ReferenceResult& exact, const Bounds& bounds,
                     const OtherChoices& other) {
    Worst worst;
    for_each_choice(exact, [&](int64_t layer, int64_t row, double error) {
      worst.add(error, bounds.absolute.at(route_name(layer, "scores")),
                fmt::format("layer {}, token {}", layer, row));
    });
    table_.add({quantity, 1, worst.error, worst.bound, worst.where,
                fmt::format("{} of {} choices differ", other.count, other.of)});
  }

  // With the engine's own experts.
  void free() {
    if (exact_.experts.empty()) return;
    ReferenceOptions options;
    options.gradients = false;
    options.forced = engine_.run({}).experts;
    const ReferenceResult exact = model_.run(folder_.batch, options);
    const OtherChoices other = count_other(exact);
    const Bounds bounds = other.count == 0
                              ? no_bounds(exact)
                              : derive_bounds(model_, folder_.batch, options, exact, rounding_);
    judge_choices("experts, chosen freely", exact, bounds, other);
  }
  static Bounds no_bounds(const ReferenceResult& exact) {
    Bounds out;
    for (const auto& [name, numbers] : exact.numbers) out.absolute[name] = 0;
    return out;
  }

  void text() {
    if (folder_.greedy.empty()) return;
    const Engine::Text text = engine_.continue_greedily();
    ReferenceBatch batch;
    batch.sequences = 1;
    batch.tokens = folder_.prompt;
    batch.tokens.insert(batch.tokens.end(), text.tokens.begin(), text.tokens.end() - 1);
    batch.positions = std::ssize(batch.tokens);
    ReferenceOptions options = as_decoded({});
    options.forced = text.experts;
    const ReferenceResult exact = model_.run(batch, options);
    const OtherChoices other = count_other(exact);
    const std::vector<double> gaps = logit_gaps(text.tokens, exact);
    const double gap = *std::ranges::max_element(gaps);
    const bool equal = other.count == 0 && gap == 0;
    const Bounds bounds =
        equal ? no_bounds(exact) : derive_bounds(model_, batch, options, exact, rounding_);
    if (!exact.experts.empty()) judge_choices("experts, in the text", exact, bounds, other);

    Verdict verdict{"greedy text", 1, gap / 2, bounds.absolute.at("logits.0"), "", ""};
    const auto agrees =
        std::ranges::mismatch(text.tokens, folder_.greedy).in1 - text.tokens.begin();
    verdict.note = text_note(agrees, std::ssize(text.tokens));
    if (agrees < std::ssize(text.tokens)) {
      // Token `agrees` was chosen from what the rows before it made of the prompt and the text.
      const bool routed_elsewhere = other.first_row < std::ssize(folder_.prompt) + agrees;
      if (routed_elsewhere) verdict.note += ", to where an expert differs";
      if (!routed_elsewhere && gaps[agrees] > 0) verdict.note += ", to a near tie of logits";
      if (!routed_elsewhere && gaps[agrees] == 0)
        verdict.error = std::numeric_limits<double>::infinity();
    }
    table_.add(std::move(verdict));
  }
  // By which the reference prefers another token to each of the engine's. Two logits that swap are
  // each off by half of it.
  std::vector<double> logit_gaps(const std::vector<int32_t>& tokens,
                                 const ReferenceResult& exact) const {
    const int64_t V = folder_.config.model.vocab_size;
    const std::vector<double>& logits = exact.numbers.at("logits.0");
    std::vector<double> out;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int64_t position = std::ssize(folder_.prompt) - 1 + static_cast<int64_t>(i);
      const auto row = std::span(logits).subspan(position * V, V);
      out.push_back(*std::ranges::max_element(row) - row[tokens[i]]);
    }
    return out;
  }

  const GoldenFolder& folder_;
  Engine& engine_;
  Rounding rounding_;
  double summed_in_f32_;
  ReferenceModel model_;
  ref::Routing how_;
  ReferenceResult exact_;
  VerdictTable table_;
};

}  // namespace

Verification verify_rounded(const GoldenFolder& folder, Engine& engine, bool fp8) {
  return RoundedVerification(folder, engine, fp8 ? fp8_rounding() : bf16_rounding()).run();
}

}  // namespace minke::study

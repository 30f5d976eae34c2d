#include "study/route.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace minke::study {
namespace {

using Json = nlohmann::ordered_json;

// The groups that a token's experts may come from, ascending: as ops::route chooses them (the sum
// of a group's two best biased scores, or its best alone for group_limited_greedy; the lower index
// wins a tie).
std::vector<int32_t> groups_of(const LayerRoutes& layer, const std::vector<float>& scores) {
  const ops::Routing& how = layer.how;
  if (how.groups == 1 || how.method == ops::TopkMethod::kGreedy) return {};
  const auto size = static_cast<size_t>(how.experts / how.groups);
  std::vector<float> of_group;
  for (size_t begin = 0; begin < scores.size(); begin += size) {
    std::vector<float> biased;
    for (size_t e = begin; e < begin + size; ++e) {
      biased.push_back(how.method == ops::TopkMethod::kNoauxTc
                           ? scores[e] + layer.bias_of(static_cast<int32_t>(e))
                           : scores[e]);
    }
    std::ranges::sort(biased, std::greater());
    const bool one = how.method == ops::TopkMethod::kGroupLimitedGreedy || size == 1;
    of_group.push_back(one ? biased[0] : biased[0] + biased[1]);
  }
  std::vector<int32_t> out(of_group.size());
  std::iota(out.begin(), out.end(), 0);
  std::ranges::stable_sort(out, std::greater(),
                           [&](int32_t g) { return of_group[static_cast<size_t>(g)]; });
  out.resize(static_cast<size_t>(how.chosen_groups));
  std::ranges::sort(out);
  return out;
}

void find_next(const LayerRoutes& layer, TokenRoute& token) {
  float best = -std::numeric_limits<float>::infinity();
  for (size_t e = 0; e < token.scores.size(); ++e) {
    const auto expert = static_cast<int32_t>(e);
    const auto group = static_cast<int32_t>(layer.group_of(expert));
    const bool allowed = token.groups.empty() || std::ranges::count(token.groups, group) > 0;
    const bool taken = std::ranges::count(token.chosen, expert, &Choice::expert) > 0;
    const float biased = token.scores[e] + layer.bias_of(expert);
    if (!allowed || taken || !(biased > best)) continue;
    best = biased;
    token.next = {expert, token.scores[e], 0};
    token.has_next = true;
  }
}

}  // namespace

std::vector<int64_t> LayerRoutes::counts() const {
  std::vector<int64_t> out(static_cast<size_t>(how.experts));
  for (const TokenRoute& token : tokens) {
    for (const Choice& choice : token.chosen) ++out[static_cast<size_t>(choice.expert)];
  }
  return out;
}

TextRoutes routes_of(TextForward& forward) {
  TextRoutes out;
  out.model = forward.folder().string();
  out.ids = forward.tokens();
  for (size_t i = 0; i < out.ids.size(); ++i) out.texts.push_back(forward.text_of(i));
  const auto& blocks = forward.saved().blocks;
  forward.model().for_each_router([&](int64_t at, const model::Router& router) {
    if (std::cmp_greater_equal(at, blocks.size())) return;  // MTP's
    const model::Router::Saved& saved = blocks[static_cast<size_t>(at)].moe.route;
    LayerRoutes layer;
    layer.layer = at;
    layer.how = router.how();
    if (router.has_bias()) {
      const auto bias = router.bias_E.span<float>();
      layer.bias.assign(bias.begin(), bias.end());
    }
    for (int64_t t = 0; t < std::ssize(out.ids); ++t) {
      TokenRoute token;
      const auto scores = saved.scores_TE[t].span<float>();
      token.scores.assign(scores.begin(), scores.end());
      const auto experts = saved.experts_TK[t].span<int32_t>();
      const auto weights = saved.weights_TK[t].span<float>();
      for (size_t k = 0; k < experts.size(); ++k) {
        token.chosen.push_back({experts[k], scores[static_cast<size_t>(experts[k])], weights[k]});
      }
      std::ranges::stable_sort(token.chosen, std::greater(), &Choice::weight);
      token.groups = groups_of(layer, token.scores);
      find_next(layer, token);
      layer.tokens.push_back(std::move(token));
    }
    out.layers.push_back(std::move(layer));
  });
  if (out.layers.empty()) {
    fail("{}: has no layer of experts: n_routed_experts or first_k_dense_replace leaves none",
         out.model);
  }
  return out;
}

Json json_of(const TextRoutes& routes) {
  Json out = {{"model", routes.model}, {"tokens", Json::array()}, {"layers", Json::array()}};
  for (size_t i = 0; i < routes.ids.size(); ++i) {
    out["tokens"].push_back({{"id", routes.ids[i]}, {"text", routes.texts[i]}});
  }
  for (const LayerRoutes& layer : routes.layers) {
    Json tokens = Json::array();
    for (const TokenRoute& token : layer.tokens) {
      Json experts = Json::array(), weights = Json::array();
      for (const Choice& choice : token.chosen) {
        experts.push_back(choice.expert);
        weights.push_back(choice.weight);
      }
      tokens.push_back({{"experts", experts},
                        {"weights", weights},
                        {"scores", token.scores},
                        {"groups", token.groups}});
    }
    out["layers"].push_back({{"layer", layer.layer},
                             {"experts", layer.how.experts},
                             {"chosen", layer.how.chosen},
                             {"groups", layer.how.groups},
                             {"chosen_groups", layer.how.chosen_groups},
                             {"bias", layer.bias},
                             {"tokens", tokens}});
  }
  return out;
}

}  // namespace minke::study

// Which experts each token of a text goes to, and why: scores, biases, groups and gate weights as
// the router computed them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "study/text_forward.h"

namespace minke::study {

// An expert's part in a token's choice.
struct Choice {
  int32_t expert = 0;
  float score = 0;   // of the gate, without bias
  float weight = 0;  // what its output is multiplied by; 0 where it is not chosen
};

struct TokenRoute {
  std::vector<Choice> chosen;   // the largest weight first
  std::vector<float> scores;    // of all experts
  std::vector<int32_t> groups;  // that experts were chosen from; empty where there is one group
  Choice next;                  // the best (bias included, of these groups) that was not chosen
  bool has_next = false;
};

struct LayerRoutes {
  int64_t layer = 0;
  ops::Routing how;
  std::vector<float> bias;  // of each expert; empty where the router has none
  std::vector<TokenRoute> tokens;

  float bias_of(int32_t expert) const {
    return bias.empty() ? 0.0F : bias[static_cast<size_t>(expert)];
  }
  int64_t group_of(int32_t expert) const { return expert / (how.experts / how.groups); }
  // Tokens that each expert got.
  std::vector<int64_t> counts() const;
};

struct TextRoutes {
  std::string model;
  std::vector<int32_t> ids;
  std::vector<std::string> texts;  // of each token
  std::vector<LayerRoutes> layers;
};

// Of every layer of experts of the trunk. Error: the model has none.
TextRoutes routes_of(TextForward& forward);

// {model, tokens: [{id, text}], layers: [{layer, experts, chosen, groups, chosen_groups, bias,
// tokens: [{experts, weights, scores, groups}]}]}: what route.html draws.
nlohmann::ordered_json json_of(const TextRoutes& routes);

}  // namespace minke::study

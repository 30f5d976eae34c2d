#include "checkpoint/generation_config.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"

namespace minke::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

std::optional<double> number(const Json& root, const char* key, double most) {
  const Json* value = find(root, key);
  if (value == nullptr) return {};
  if (!value->is_number() || !(value->get<double>() >= 0 && value->get<double>() <= most)) {
    fail("{} is {}, expected a number from 0 to {}", key, shown(*value), most);
  }
  return value->get<double>();
}

// An id of a token, or a count.
int64_t whole_number(const char* key, const Json& value) {
  constexpr uint64_t kMost = uint64_t{1} << 31;
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMost) {
    fail("{} is {}, expected a whole number from 0", key, shown(value));
  }
  return value.get<int64_t>();
}

GenerationConfig parse(Json root) {
  constexpr double kMostTemperature = 1000;
  if (!root.is_object()) fail("is {}, expected an object", shown(root));
  GenerationConfig out;
  if (const Json* eos = find(root, "eos_token_id")) {
    for (const Json& id : eos->is_array() ? *eos : Json::array({*eos})) {
      out.eos_token_id.push_back(whole_number("eos_token_id", id));
    }
  }
  out.temperature = number(root, "temperature", kMostTemperature);
  out.top_p = number(root, "top_p", 1);
  out.min_p = number(root, "min_p", 1);
  if (const Json* k = find(root, "top_k")) out.top_k = whole_number("top_k", *k);
  if (const Json* sample = find(root, "do_sample")) {
    if (!sample->is_boolean()) {
      fail("do_sample is {}, expected true or false", shown(*sample));
    }
    if (!sample->get<bool>()) out.temperature = 0;
  }
  out.kept = std::move(root);
  return out;
}

}  // namespace

GenerationConfig parse_generation_config(std::string_view text, const std::string& where) {
  auto root = parse_json<Json>(text, where);
  try {
    return parse(std::move(root));
  } catch (const Error& error) {
    fail("{}: {}", where, error.what());
  }
}

GenerationConfig read_generation_config(const fs::path& folder) {
  constexpr uint64_t kMaxBytes = 1 << 24;
  const fs::path path = folder / "generation_config.json";
  if (!fs::exists(path)) return {};
  return parse_generation_config(read_file(path, kMaxBytes), path.string());
}

std::string generation_config_text(const GenerationConfig& config, int64_t bos,
                                   const std::vector<int64_t>& eos) {
  Json root = config.kept;
  root["bos_token_id"] = bos < 0 ? Json(nullptr) : Json(bos);
  const auto named = [&](int64_t id) { return std::ranges::count(config.eos_token_id, id) > 0; };
  if (!std::ranges::all_of(eos, named)) root["eos_token_id"] = eos;
  return root.dump(2) + "\n";
}

}  // namespace minke::checkpoint

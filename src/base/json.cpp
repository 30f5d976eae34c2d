#include "base/json.h"

#include <unordered_set>
#include <vector>

#include "base/error.h"

template class nlohmann::detail::serializer<nlohmann::json>;
template class nlohmann::detail::serializer<nlohmann::ordered_json>;

namespace minke {

template <typename Json>
Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kMaxDepth = 64;
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::unordered_set<std::string>> open_objects;
  const auto watch = [&](int depth, auto event, Json& value) {
    switch (static_cast<Event>(event)) {
      case Event::object_start:
        open_objects.emplace_back();
        [[fallthrough]];
      case Event::array_start:
        if (depth >= kMaxDepth) fail("{}: nested deeper than {}", where, kMaxDepth);
        break;
      case Event::key: {
        const auto& key = value.template get_ref<const std::string&>();
        if (!open_objects.back().insert(key).second) fail("{}: \"{}\" stands twice", where, key);
        break;
      }
      case Event::object_end:
        open_objects.pop_back();
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not valid JSON: {}", where, error.what());
  }
}

template nlohmann::json parse_json(std::string_view, const std::string&);
template nlohmann::ordered_json parse_json(std::string_view, const std::string&);

}  // namespace minke

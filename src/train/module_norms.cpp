#include "train/module_norms.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>

#include "base/thread_pool.h"

namespace minke::train {
namespace {

// From the Hugging Face name: what follows model.layers.N., and the module it is of.
constexpr std::pair<std::string_view, const char*> kModules[] = {{"self_attn.", "attention"},
                                                                 {"mlp.gate.", "router"},
                                                                 {"mlp.experts.", "experts"},
                                                                 {"mlp.shared_experts.", "shared"},
                                                                 {"mlp.", "ffn"},
                                                                 {"eh_proj", "projection"},
                                                                 {"", "norms"}};

ModuleNorms norms_named(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  ModuleNorms out;
  if (!name.starts_with(kLayers)) {
    out.module = name.starts_with("lm_head")              ? "head"
                 : name.starts_with("model.embed_tokens") ? "embedding"
                                                          : "norms";
    return out;
  }
  name.remove_prefix(kLayers.size());
  const char* end = std::from_chars(name.data(), name.data() + name.size(), out.layer).ptr;
  name.remove_prefix(static_cast<size_t>(end - name.data()) + 1);
  out.module = std::ranges::find_if(kModules, [&](const auto& m) {
                 return name.starts_with(m.first);
               })->second;
  return out;
}

}  // namespace

ModuleNorms& module_of(const model::Weight& weight, std::vector<ModuleNorms>& norms) {
  ModuleNorms wanted = norms_named(weight.pieces()[0].name);
  const auto found = std::ranges::find_if(norms, [&](const ModuleNorms& n) {
    return n.module == wanted.module && n.layer == wanted.layer;
  });
  return found != norms.end() ? *found : norms.emplace_back(std::move(wanted));
}

double squared_distance(const Tensor& a, const Tensor& b) {
  MINKE_CHECK(a.shape() == b.shape());
  constexpr int64_t kBlock = 1 << 14;
  const auto x = a.span<float>(), y = b.span<float>();
  std::vector<double> sums(static_cast<size_t>((a.count() + kBlock - 1) / kBlock), 0.0);
  parallel_for(a.count(), kBlock, [&](int64_t begin, int64_t end) {
    // One sum would wait for itself at each number.
    constexpr size_t kSums = 8;
    std::array<double, kSums> part{};
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const double difference = static_cast<double>(x[i]) - static_cast<double>(y[i]);
      part[i % kSums] += difference * difference;
    }
    sums[static_cast<size_t>(begin / kBlock)] = std::accumulate(part.begin(), part.end(), 0.0);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace minke::train

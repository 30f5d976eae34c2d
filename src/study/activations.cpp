#include "study/activations.h"

#include <fnmatch.h>

#include <algorithm>
#include <map>

#include "base/error.h"

namespace minke::study {
namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;

void add_layer(const std::string& name, const model::Block::Saved& block, Named& out) {
  const auto add = [&](const char* what, const Tensor& tensor) {
    if (!tensor.empty()) out.emplace_back(name + what, tensor);
  };
  const model::Mla::Saved& mla = block.mla;
  add("input", block.x_in);
  add("attention.input", block.attention_in);
  add("attention.q_latent_in", mla.q_a_TQ);
  add("attention.q_latent", mla.expanded.q_latent_TQ);
  add("attention.q", mla.expanded.q);
  add("attention.kv_latent", mla.expanded.latent_TR);
  add("attention.k_rope", mla.k_rope);
  add("attention.kv", mla.expanded.kv);
  add("attention.output", mla.o.numbers);
  add("attention.log_sum_exp", mla.lse_HT);
  add("middle", block.x_mid);
  add("ffn.input", block.ffn_in);
  add("ffn.gate_up", block.ffn.gate_up.numbers);
  add("ffn.hidden", block.ffn.h_TF);
  add("router.scores", block.moe.route.scores_TE);
  add("router.experts", block.moe.route.experts_TK);
  add("router.weights", block.moe.route.weights_TK);
  add("experts.token", block.moe.token_R);
  add("experts.gate_up", block.moe.gate_up.numbers);
  add("experts.hidden", block.moe.h_RF);
  add("shared.gate_up", block.moe.shared.gate_up.numbers);
  add("shared.hidden", block.moe.shared.h_TF);
}

}  // namespace

Named activations_of(TextForward& forward) {
  const model::Transformer::Saved& saved = forward.saved();
  Named out;
  out.emplace_back("tokens", Tensor(forward.tokens().data(), {std::ssize(forward.tokens())}));
  for (size_t n = 0; n < saved.blocks.size(); ++n) {
    add_layer(fmt::format("layers.{}.", n), saved.blocks[n], out);
  }
  out.emplace_back("output", saved.x_out);
  out.emplace_back("hidden", saved.hidden[0]);
  return out;
}

std::vector<checkpoint::TensorSpec> write_activations(const fs::path& path, TextForward& forward,
                                                      const std::vector<std::string>& patterns) {
  const auto fits = [](const std::string& pattern, const std::string& name) {
    return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  };
  Named all = activations_of(forward);
  OwnedTensor logits;
  if (std::ranges::any_of(patterns, [&](const auto& pattern) { return fits(pattern, "logits"); })) {
    logits = OwnedTensor(DType::kF32, {all[0].second.dim(0), forward.model().config().vocab_size});
    forward.model().logits(logits, forward.saved().hidden[0], forward.pass());
    all.emplace_back("logits", logits);
  }
  for (const std::string& pattern : patterns) {
    if (std::ranges::none_of(all, [&](const auto& a) { return fits(pattern, a.first); })) {
      fail("--select {}: no activation has such a name; there are tokens, {}, ... hidden, logits",
           pattern, all[1].first);
    }
  }
  std::erase_if(all, [&](const auto& a) {
    return std::ranges::none_of(patterns, [&](const auto& p) { return fits(p, a.first); });
  });
  std::vector<checkpoint::TensorSpec> specs;
  std::map<std::string, Tensor> by_name;
  for (const auto& [name, tensor] : all) {
    specs.emplace_back(name, tensor.dtype(), tensor.shape());
    by_name.emplace(name, tensor);
  }
  checkpoint::SafetensorsWriter writer(path, specs);
  for (const checkpoint::TensorSpec& spec : writer.order()) writer.write(by_name.at(spec.name));
  writer.finish();
  return specs;
}

}  // namespace minke::study

#include "infer/loaded_model.h"

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"

namespace minke::infer {

std::string_view stem_of(WeightsOf weights, const fs::path& folder) {
  if (weights == WeightsOf::kModel) return "model";
  if (!fs::exists(folder / "ema.safetensors")) {
    fail("{}: holds no averaged weights; `minke train --ema 0.999` would keep them",
         folder.string());
  }
  return "ema";
}

LoadedModel load_model(const fs::path& folder, model::Precision precision,
                       const LoadOptions& options) {
  LoadedModel out;
  out.folder = checkpoint::model_folder(folder);
  out.config = checkpoint::read_config(out.folder / "config.json");
  out.generation = checkpoint::read_generation_config(out.folder);
  out.files = std::make_unique<checkpoint::CheckpointFolder>(out.folder,
                                                             stem_of(options.weights, out.folder));
  const auto load = [&](checkpoint::Extra extra) {
    out.model = std::make_unique<model::Transformer>(out.config.model, precision);
    return checkpoint::load_weights(*out.model, *out.files, checkpoint::Use::kInference, extra);
  };
  checkpoint::list_extras(load(options.extra), "not used");
  // A run writes its checkpoint anew, and a file beside it would be gone with the next save.
  const bool in_training = fs::exists(out.folder / "trainer_state.json");
  const auto left = static_cast<double>(free_memory_bytes());
  const auto path = [&]() -> fs::path {
    const size_t bytes = out.model->operand_bytes();
    const bool packs =
        bytes >= options.packed_from && !(in_training && static_cast<double>(bytes) <= left);
    return packs ? PackedFile::path_of(out.folder, *out.files, *out.model) : fs::path();
  };
  fs::path packed = path();
  // What is packed with its MTP layer has been compared then.
  if (packed.empty() || !fs::exists(packed)) {
    if (const auto copy = checkpoint::differing_copy(out.config.model, *out.files)) {
      log::warn("{}: the model is read without its MTP layer, and drafts nothing", *copy);
      out.config.model.num_nextn_predict_layers = 0;
      load(checkpoint::Extra::kKept);
      packed = path();
    }
  }
  const size_t bytes = out.model->operand_bytes();
  const auto needed = static_cast<double>(bytes);
  if (!packed.empty()) {
    out.packed = std::make_unique<PackedFile>(packed, *out.model);
  } else if (needed > left) {
    fail("{}: its weights take {} once prepared, and {} of memory is left", out.folder.string(),
         format_bytes(needed), format_bytes(left));
  } else {
    out.memory = Buffer(bytes);
    out.model->place_operands(out.memory.data());
    out.model->pack_operands([](const model::Weight&) {});
  }
  return out;
}

}  // namespace minke::infer

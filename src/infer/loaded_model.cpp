#include "infer/loaded_model.h"

#include "base/error.h"
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
  out.model = std::make_unique<model::Transformer>(out.config.model, precision);
  checkpoint::list_extras(
      checkpoint::load_weights(*out.model, *out.files, checkpoint::Use::kInference, options.extra),
      "not used");
  const size_t bytes = out.model->operand_bytes();
  const auto needed = static_cast<double>(bytes), left = static_cast<double>(free_memory_bytes());
  // A run writes its checkpoint anew, and a file beside it would be gone with the next save.
  const bool in_training = fs::exists(out.folder / "trainer_state.json");
  if (bytes >= options.packed_from && !(in_training && needed <= left)) {
    out.packed = std::make_unique<PackedFile>(out.folder, *out.files, *out.model);
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

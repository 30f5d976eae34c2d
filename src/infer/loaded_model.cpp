#include "infer/loaded_model.h"

#include "base/error.h"
#include "base/progress.h"

namespace minke::infer {

LoadedModel load_model(const fs::path& folder, model::Precision precision, WeightsOf which) {
  LoadedModel out;
  out.folder = checkpoint::model_folder(folder);
  out.config = checkpoint::read_config(out.folder / "config.json");
  const char* stem = which == WeightsOf::kAverage ? "ema" : "model";
  if (which == WeightsOf::kAverage && !fs::exists(out.folder / "ema.safetensors")) {
    fail("{}: holds no averaged weights; `minke train --ema 0.999` would keep them",
         out.folder.string());
  }
  out.files = std::make_unique<checkpoint::CheckpointFolder>(out.folder, stem);
  out.model = std::make_unique<model::Transformer>(out.config.model, precision);
  const auto needed = static_cast<double>(out.model->packed_size(false));
  const auto left = static_cast<double>(free_memory_bytes());
  if (needed > left) {
    fail("{}: its weights take {} once prepared, and {} of memory is left", out.folder.string(),
         format_bytes(needed), format_bytes(left));
  }
  checkpoint::load_weights(*out.model, *out.files, checkpoint::Use::kInference);
  out.model->prepare(false);
  out.model->prepare_decode();
  return out;
}

}  // namespace minke::infer

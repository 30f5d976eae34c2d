#include "app/inspect_activations.h"

#include <fmt/format.h>

#include "app/text_options.h"
#include "base/progress.h"
#include "study/activations.h"

namespace minke::app {

void write_activations(const std::string& model, const ActivationsRequest& request) {
  if (request.precision == model::Precision::kFp8) fail("--activations: --precision fp32 or bf16");
  study::TextForward forward(model, request.precision,
                             request.text == "-" ? read_standard_input() : request.text,
                             request.load);
  uint64_t bytes = 0;
  for (const auto& spec : study::write_activations(request.file, forward, request.select)) {
    fmt::print("{:36} {:5} [{}]\n", spec.name, spec.dtype, fmt::join(spec.shape, ", "));
    bytes += spec.bytes();
  }
  fmt::print("{}: {} of {} tokens\n", request.file, format_bytes(static_cast<double>(bytes)),
             forward.tokens().size());
}

}  // namespace minke::app

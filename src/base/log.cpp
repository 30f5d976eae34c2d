#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace minke {

void start_logging(bool verbose) {
  auto logger = spdlog::stderr_color_mt("minke");
  logger->set_pattern("%^%v%$");
  logger->set_level(verbose ? spdlog::level::debug : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace minke

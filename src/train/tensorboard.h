// The events of metrics.jsonl as TensorBoard reads them: a file of records (TFRecord), each a
// protocol buffer (tensorflow.Event) between checksums. Written by hand: what is needed of either
// format is a page.
//
// Numbers become scalars named EVENT/FIELD, by their names in docs/METRICS.md (step/loss,
// step/mtp_loss/1, eval/bits_per_byte, modules/layers.3.attention/update); samples become texts.
// Loads and biases of single experts are left out: they are thousands.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace minke::train {

// CRC-32C (Castagnoli) of the bytes, rotated and offset as TFRecord stores it.
uint32_t masked_crc32c(std::string_view bytes);

// The scalars of an event, by name.
std::vector<std::pair<std::string, float>> scalars_of(const nlohmann::json& event);

class TensorBoardFile {
 public:
  // Begins a file in `folder`, in place of those that a TensorBoardFile wrote there before: a run
  // that goes on tells all of its events again. Error: it cannot be written.
  explicit TensorBoardFile(const fs::path& folder);
  // Events in the log's order; an event's time is that of the step before it.
  void write(const nlohmann::json& event);

 private:
  void write_record(const std::string& event);

  fs::path path_;
  std::ofstream out_;
  double began_ = 0,
         now_ = 0;  // seconds since 1970: when the run would have begun had it never stopped
};

}  // namespace minke::train

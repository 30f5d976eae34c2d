// What a run keeps besides its metrics and checkpoint: its text as tokens, and its manifest.
#pragma once

#include <optional>
#include <set>

#include "model/config.h"
#include "text/tokenizer.h"
#include "train/data_stream.h"
#include "train/held_out.h"
#include "train/options.h"
#include "train/state.h"

namespace minke::train {

// Tokenizer, tokenised text and held-out text of a run.
class RunText {
 public:
  enum class Kind { kNew, kResumed };
  // Reads --data and --valid, trains or loads the tokenizer, tokenises into out/tokens or finds it
  // done there.
  RunText(const Options& options, const fs::path& out, Kind kind);

  const TokenStore& store() const { return *store_; }
  const std::vector<int64_t>& train_documents() const { return split_.train; }
  const HeldOut& held_out() const { return held_out_; }  // empty where nothing is held out
  const Encoder& encoder() const { return encoder_; }

  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  std::vector<int32_t> encode(std::string_view text) const { return tokenizer_->encode(text); }
  // As a reader sees it, without control tokens.
  std::string shown(std::span<const int32_t> ids) const;
  int64_t vocabulary() const { return tokenizer_->vocabulary(); }
  int32_t bos() const { return encoder_.bos; }
  int32_t eos() const { return encoder_.eos; }
  const fs::path& tokenizer_folder() const { return tokenizer_folder_; }
  const std::string& hash() const { return store_->hash(); }
  const std::string& tokenizer_hash() const { return encoder_.hash; }
  const std::vector<fs::path>& train_files() const { return train_files_; }
  const std::vector<fs::path>& valid_files() const { return valid_files_; }

 private:
  fs::path tokenizer_folder_;
  std::unique_ptr<text::Tokenizer> tokenizer_;  // where it is does not change
  Encoder encoder_;
  std::optional<TokenStore> store_;
  Split split_;
  HeldOut held_out_;
  std::vector<fs::path> train_files_, valid_files_;
};

// out/manifest.json: what the run is.
void write_manifest(const fs::path& out, const Options& options, const model::ModelConfig& config,
                    const RunText& text, const RunIdentity& identity);
// The settings that a manifest holds. Error for one that is damaged.
Options read_manifest_options(const fs::path& out);
// The settings of Scope::kFree that `given` names, from `from`; and where to stop, which no run
// keeps.
void take_given(Options& into, const Options& from, const std::set<std::string>& given);

// Adds the counts of a step to those since the last event.
void add_loads(std::vector<RouterLoad>& sums, const std::vector<RouterLoad>& step);

}  // namespace minke::train

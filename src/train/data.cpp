#include "train/data.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/hash.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/thread_pool.h"

namespace minke::train {
namespace {

using checkpoint::SafetensorsWriter;
using nlohmann::json;

constexpr int64_t kFormat = 1;  // of the folder; another number: tokenised again
constexpr size_t kShardTokens = size_t{1} << 25;
constexpr size_t kBatchBytes = size_t{1} << 25;
constexpr const char* kManifest = "manifest.json";

fs::path shard_path(const fs::path& folder, int64_t shard) {
  return folder / fmt::format("tokens-{:05}.safetensors", shard);
}

// Of everything that decides what the folder holds.
std::string identity(const std::vector<SourceFile>& files, const std::string& text_field,
                     double tail_fraction, const Encoder& encoder) {
  Progress progress("reading text", bytes_of(files), Progress::Unit::kBytes);
  Hasher hasher;
  hasher.add(fmt::format("{};{};{};{};{};{};", kFormat, encoder.hash, encoder.bos, encoder.eos,
                         tail_fraction, text_field));
  for (const SourceFile& file : files) {
    const MappedFile bytes(file.path);
    const std::span<const std::byte> all = bytes.bytes();
    hasher.add(
        fmt::format("{};{};{};", file.lines, static_cast<int>(file.compression), all.size()));
    constexpr size_t kPiece = size_t{1} << 24;
    for (size_t at = 0; at < all.size(); at += kPiece) {
      const size_t n = std::min(kPiece, all.size() - at);
      hasher.add(all.data() + at, n);
      progress.add(n);
    }
  }
  return hasher.hex();
}

struct Totals {
  int64_t documents = 0, tokens = 0, bytes = 0;
  int64_t largest_token = 0;
};

// Collects documents and writes them in shards: each is written whole once it is full.
class StoreWriter {
 public:
  StoreWriter(fs::path folder, const Encoder& encoder)
      : folder_(std::move(folder)), encoder_(encoder) {}

  // Documents are tokenised in parallel, and kept in the order given.
  void add(std::span<const Document> documents) {
    std::vector<TokenizedDocument> encoded(documents.size());
    parallel_for(std::ssize(documents), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        encoded[i] = encode(documents[i]);
      }
    });
    for (size_t i = 0; i < documents.size(); ++i) {
      const TokenizedDocument& document = encoded[i];
      for (const int32_t token : document.tokens) {
        MINKE_CHECK(token >= 0);
        totals_.largest_token = std::max<int64_t>(totals_.largest_token, token);
      }
      tokens_.insert(tokens_.end(), document.tokens.begin(), document.tokens.end());
      if (!document.learned.empty()) {
        learned_.resize(tokens_.size() - document.tokens.size(), 1);
        learned_.insert(learned_.end(), document.learned.begin(), document.learned.end());
      }
      documents_.push_back(std::ssize(document.tokens));
      documents_.push_back(std::ssize(documents[i].text));
      totals_.bytes += std::ssize(documents[i].text);
      if (tokens_.size() >= kShardTokens) write_shard();
    }
  }

  void finish(const std::string& hash, bool tail_was_cut) {
    write_shard();
    const int64_t largest = std::max<int64_t>({totals_.largest_token, encoder_.bos, encoder_.eos});
    const json manifest = {{"hash", hash},
                           {"shards", shards_},
                           {"documents", totals_.documents},
                           {"tokens", totals_.tokens},
                           {"bytes", totals_.bytes},
                           {"largest_token", largest},
                           {"tail_was_cut", tail_was_cut}};
    write_file_atomic(folder_ / kManifest, manifest.dump(2) + "\n");
  }

  const Totals& totals() const { return totals_; }

 private:
  TokenizedDocument encode(const Document& document) const {
    if (!document.messages.empty()) {
      if (!encoder_.encode_conversation) fail("conversations cannot be read here");
      return encoder_.encode_conversation(document.messages);
    }
    TokenizedDocument out;
    out.tokens.push_back(encoder_.bos);
    const std::vector<int32_t> text = encoder_.encode(document.text);
    out.tokens.insert(out.tokens.end(), text.begin(), text.end());
    out.tokens.push_back(encoder_.eos);
    return out;
  }

  void write_shard() {
    if (tokens_.empty()) return;
    const Tensor tokens(tokens_.data(), {std::ssize(tokens_)});
    const Tensor documents(documents_.data(), {std::ssize(documents_) / 2, 2});
    std::map<std::string, Tensor> tensors = {{"tokens", tokens}, {"documents", documents}};
    if (!learned_.empty()) {
      learned_.resize(tokens_.size(), 1);
      tensors["learned"] = Tensor(learned_.data(), {std::ssize(learned_)});
    }
    std::vector<checkpoint::TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) {
      specs.emplace_back(name, tensor.dtype(), tensor.shape());
    }
    SafetensorsWriter file(shard_path(folder_, shards_++), specs, {});
    for (const auto& spec : file.order()) file.write(tensors.at(spec.name));
    file.finish();
    totals_.documents += documents.dim(0);
    totals_.tokens += std::ssize(tokens_);
    tokens_.clear();
    learned_.clear();
    documents_.clear();
  }

  fs::path folder_;
  const Encoder& encoder_;
  std::vector<int32_t> tokens_;
  std::vector<uint8_t> learned_;  // of the first tokens; all of those behind it are
  std::vector<int64_t> documents_;
  int64_t shards_ = 0;
  Totals totals_;
};

// The place behind the line break that makes the end of the text at least `fraction` of it; none
// where that would leave less than half of the text.
std::optional<size_t> tail_begin(std::string_view text, double fraction) {
  const auto latest =
      static_cast<size_t>(std::floor(static_cast<double>(text.size()) * (1 - fraction)));
  if (latest == 0) return {};
  const size_t line_break = text.rfind('\n', latest - 1);
  if (line_break == std::string_view::npos || line_break < text.size() / 2) return {};
  return line_break + 1;
}

void fill(const fs::path& folder, const std::vector<SourceFile>& files,
          const std::string& text_field, double tail_fraction, const Encoder& encoder,
          const std::string& hash) {
  Progress progress("tokenising", bytes_of(files), Progress::Unit::kBytes);
  StoreWriter writer(folder, encoder);
  std::vector<Document> batch;
  size_t batch_bytes = 0;
  uint64_t file_bytes = 0;
  int64_t documents = 0;
  const auto flush = [&] {
    if (interrupted()) fail("interrupted while tokenising; nothing was kept");
    writer.add(batch);
    progress.add(std::exchange(file_bytes, 0));
    batch.clear();
    batch_bytes = 0;
  };
  for (const SourceFile& file : files) {
    read_documents(file, text_field, [&](Document&& document) {
      ++documents;
      batch_bytes += document.text.size();
      file_bytes += document.file_bytes;
      // The first document stays until it is known whether it is the only one.
      const bool full = batch_bytes >= kBatchBytes && documents > 1;
      batch.push_back(std::move(document));
      if (full) flush();
    });
  }
  bool cut = false;
  if (documents == 1 && tail_fraction > 0 && batch.front().messages.empty()) {
    const std::string text = std::move(batch.front().text);
    const std::optional<size_t> at = tail_begin(text, tail_fraction);
    if (!at) {
      fail(
          "{}: the only document, of which {} cannot be held out for want of line breaks; name "
          "held-out text, or give more",
          files.front().path.string(), tail_fraction);
    }
    batch = {{.text = text.substr(0, *at)}, {.text = text.substr(*at)}};
    cut = true;
  }
  flush();
  writer.finish(hash, cut);
}

// A store that was made for `hash`, if the folder holds a sound one.
std::optional<TokenStore> find_store(const fs::path& folder, const std::string& hash) {
  if (!fs::exists(folder / kManifest)) return {};
  try {
    TokenStore store(folder);
    if (store.hash() == hash) return store;
    log::info("{}: text or tokenizer changed, tokenising again", folder.string());
  } catch (const Error& error) {
    log::warn("{}; tokenising again", error.what());
  }
  return {};
}

HeldOut empty_held_out(int32_t bos) { return {{bos}, 0}; }

}  // namespace

TokenStore::TokenStore(const fs::path& folder) {
  constexpr uint64_t kMaxManifest = 1 << 16;
  const fs::path path = folder / kManifest;
  const auto manifest = parse_json<json>(read_file(path, kMaxManifest), path.string());
  Totals expected;
  int64_t shards = 0;
  try {
    hash_ = manifest.at("hash").get<std::string>();
    tail_was_cut_ = manifest.at("tail_was_cut").get<bool>();
    shards = manifest.at("shards").get<int64_t>();
    expected.documents = manifest.at("documents").get<int64_t>();
    expected.tokens = manifest.at("tokens").get<int64_t>();
    expected.bytes = manifest.at("bytes").get<int64_t>();
    expected.largest_token = manifest.at("largest_token").get<int64_t>();
  } catch (const json::exception& error) {
    fail("{}: not a manifest of tokens: {}", path.string(), error.what());
  }
  for (int64_t i = 0; i < shards; ++i) read_shard(shard_path(folder, i), expected.largest_token);
  Totals got;
  got.documents = documents();
  for (const Stored& document : documents_) {
    got.tokens += std::ssize(document.tokens);
    got.bytes += document.bytes;
  }
  if (got.documents != expected.documents || got.tokens != expected.tokens ||
      got.bytes != expected.bytes || documents_.empty()) {
    fail("{}: says {} documents of {} tokens and {} bytes, the shards have {} of {} and {}",
         path.string(), expected.documents, expected.tokens, expected.bytes, got.documents,
         got.tokens, got.bytes);
  }
}

void TokenStore::read_shard(const fs::path& path, int64_t largest_token) {
  shards_.push_back(std::make_unique<checkpoint::SafetensorsFile>(path));
  const Tensor tokens = shards_.back()->tensor("tokens");
  const Tensor sizes = shards_.back()->tensor("documents");
  if (tokens.dtype() != DType::kI32 || tokens.rank() != 1 || sizes.dtype() != DType::kI64 ||
      sizes.rank() != 2 || sizes.dim(1) != 2) {
    fail("{}: not a shard of tokens", path.string());
  }
  std::span<const int32_t> left = tokens.span<int32_t>();
  std::span<const uint8_t> learned;
  if (shards_.back()->contains("learned")) {
    learned = shards_.back()->tensor("learned", DType::kU8, tokens.shape()).span<uint8_t>();
  }
  // A token that no vocabulary has would be an index out of bounds wherever it goes.
  for (const int32_t token : left) {
    if (token < 0 || token > largest_token) {
      fail("{}: token {}, expected at most {}", path.string(), token, largest_token);
    }
  }
  for (int64_t i = 0; i < sizes.dim(0); ++i) {
    const int64_t n = sizes.data<int64_t>()[2 * i], bytes = sizes.data<int64_t>()[2 * i + 1];
    if (n < 2 || n > std::ssize(left) || bytes < 1 ||
        bytes > static_cast<int64_t>(kMaxDocumentBytes)) {
      fail("{}: document {} of {} tokens and {} bytes, expected 2 to {} tokens", path.string(), i,
           n, bytes, left.size());
    }
    documents_.push_back({left.first(static_cast<size_t>(n)), bytes, {}});
    if (!learned.empty()) {
      documents_.back().learned = learned.first(static_cast<size_t>(n));
      learned = learned.subspan(static_cast<size_t>(n));
    }
    left = left.subspan(static_cast<size_t>(n));
  }
  if (!left.empty()) fail("{}: {} tokens belong to no document", path.string(), left.size());
}

bool TokenStore::has_conversations() const {
  return std::ranges::any_of(documents_, [](const Stored& d) { return !d.learned.empty(); });
}

TokenStore tokenise(const std::vector<SourceFile>& files, const std::string& text_field,
                    double tail_fraction, const Encoder& encoder, const fs::path& folder) {
  MINKE_CHECK(!files.empty() && tail_fraction >= 0 && tail_fraction < 1);
  const std::string hash = identity(files, text_field, tail_fraction, encoder);
  recover_folder(folder);
  if (std::optional<TokenStore> found = find_store(folder, hash)) {
    log::info("{}: tokens of {} documents, made before", folder.string(), found->documents());
    found->reused_ = true;
    return std::move(*found);
  }
  write_folder_atomic(folder, [&](const fs::path& fresh) {
    fill(fresh, files, text_field, tail_fraction, encoder, hash);
  });
  return TokenStore(folder);
}

Split split_documents(const TokenStore& store, double fraction, uint64_t seed) {
  MINKE_CHECK(fraction >= 0 && fraction < 1);
  std::vector<int64_t> order(static_cast<size_t>(store.documents()));
  std::iota(order.begin(), order.end(), 0);
  if (fraction == 0) return {order, {}};
  if (store.tail_was_cut()) return {{0}, {1}};
  if (order.size() < 2) fail("a single document cannot be split; name held-out text");
  Rng rng(stream_key(seed, 0, "data.held_out"));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  int64_t total = 0;
  for (const int64_t document : order) total += store.bytes(document);
  Split split;
  int64_t held = 0;
  for (const int64_t document : order) {
    const bool enough = static_cast<double>(held) >= fraction * static_cast<double>(total);
    if (enough || split.valid.size() + 1 == order.size()) {
      split.train.push_back(document);
    } else {
      split.valid.push_back(document);
      held += store.bytes(document);
    }
  }
  std::sort(split.train.begin(), split.train.end());
  std::sort(split.valid.begin(), split.valid.end());
  return split;
}

HeldOut held_out(const TokenStore& store, std::span<const int64_t> documents) {
  if (documents.empty()) fail("no text is held out to evaluate on");
  HeldOut out = empty_held_out(store.tokens(documents.front()).front());
  for (const int64_t document : documents) {
    const std::span<const int32_t> tokens = store.tokens(document);
    out.tokens.insert(out.tokens.end(), tokens.begin() + 1, tokens.end() - 1);
    out.bytes += store.bytes(document);
  }
  return out;
}

HeldOut held_out(const std::vector<SourceFile>& files, const std::string& text_field,
                 const Encoder& encoder) {
  Progress progress("tokenising held-out text", bytes_of(files), Progress::Unit::kBytes);
  HeldOut out = empty_held_out(encoder.bos);
  std::vector<Document> batch;
  size_t batch_bytes = 0;
  const auto flush = [&] {
    std::vector<std::vector<int32_t>> encoded(batch.size());
    parallel_for(std::ssize(batch), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        encoded[i] = encoder.encode(batch[i].text);
      }
    });
    for (size_t i = 0; i < batch.size(); ++i) {
      out.tokens.insert(out.tokens.end(), encoded[i].begin(), encoded[i].end());
      out.bytes += std::ssize(batch[i].text);
      progress.add(batch[i].file_bytes);
    }
    batch.clear();
    batch_bytes = 0;
  };
  for (const SourceFile& file : files) {
    read_documents(file, text_field, [&](Document&& document) {
      batch_bytes += document.text.size();
      batch.push_back(std::move(document));
      if (batch_bytes >= kBatchBytes) flush();
    });
  }
  flush();
  return out;
}

}  // namespace minke::train

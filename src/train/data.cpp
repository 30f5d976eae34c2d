#include "train/data.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/hash.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/thread_pool.h"

namespace minke::train {
namespace {

using checkpoint::SafetensorsWriter;
using nlohmann::json;

constexpr int64_t kFormat = 1;  // of the folder; another number: tokenised again
constexpr size_t kShardTokens = size_t{1} << 25;
constexpr const char* kManifest = "manifest.json";

fs::path shard_path(const fs::path& folder, int64_t shard) {
  return folder / fmt::format("tokens-{:05}.safetensors", shard);
}

// Of everything that decides what the folder holds.
std::string identity(const Corpus& corpus, const Encoder& encoder) {
  Progress progress("reading text", bytes_of(corpus.files()), Progress::Unit::kBytes);
  Hasher hasher;
  hasher.add(fmt::format("{};{};{};{};{}", kFormat, encoder.hash, encoder.bos, encoder.eos,
                         corpus.settings()));
  for (const SourceFile& file : corpus.files()) {
    const MappedFile bytes(file.path);
    const std::span<const std::byte> all = bytes.bytes();
    hasher.add(
        fmt::format("{};{};{};", file.lines, static_cast<int>(file.compression), all.size()));
    constexpr size_t kPiece = size_t{1} << 24;
    for (size_t at = 0; at < all.size(); at += kPiece) {
      const size_t n = std::min(kPiece, all.size() - at);
      stop_if_interrupted();
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

  // They are kept in the order given. held_out: a flag for each.
  void add(std::span<const Document> documents, std::span<const uint8_t> held_out) {
    const std::vector<TokenizedDocument> encoded = encode_all(encoder_, documents);
    for (size_t i = 0; i < documents.size(); ++i) {
      const TokenizedDocument& document = encoded[i];
      for (const int32_t token : document.tokens) {
        MINKE_CHECK(token >= 0);
        totals_.largest_token = std::max<int64_t>(totals_.largest_token, token);
      }
      tokens_added_ += document.tokens.size();
      learned_added_ += document.learned.size();
      tokens_.insert(tokens_.end(), document.tokens.begin(), document.tokens.end());
      if (!document.learned.empty()) {
        learned_.resize(tokens_.size() - document.tokens.size(), 1);
        learned_.insert(learned_.end(), document.learned.begin(), document.learned.end());
      }
      documents_.push_back(std::ssize(document.tokens));
      documents_.push_back(std::ssize(documents[i].text));
      held_out_.push_back(held_out[i]);
      totals_.bytes += std::ssize(documents[i].text);
      if (tokens_.size() >= kShardTokens) write_shard();
    }
  }

  void finish(const std::string& hash) {
    write_shard();
    const int64_t largest = std::max<int64_t>({totals_.largest_token, encoder_.bos, encoder_.eos});
    const json manifest = {{"hash", hash},
                           {"shards", shards_},
                           {"documents", totals_.documents},
                           {"tokens", totals_.tokens},
                           {"bytes", totals_.bytes},
                           {"largest_token", largest}};
    write_file_atomic(folder_ / kManifest, manifest.dump(2) + "\n");
  }

  // That were added so far take of the disk, in all.
  uint64_t bytes_on_disk() const { return tokens_added_ * sizeof(int32_t) + learned_added_; }

 private:
  void write_shard() {
    if (tokens_.empty()) return;
    const Tensor tokens(tokens_.data(), {std::ssize(tokens_)});
    const Tensor documents(documents_.data(), {std::ssize(documents_) / 2, 2});
    std::map<std::string, Tensor> tensors = {{"tokens", tokens}, {"documents", documents}};
    if (!learned_.empty()) {
      learned_.resize(tokens_.size(), 1);
      tensors["learned"] = Tensor(learned_.data(), {std::ssize(learned_)});
    }
    if (std::ranges::find(held_out_, 1) != held_out_.end()) {
      tensors["held_out"] = Tensor(held_out_.data(), {std::ssize(held_out_)});
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
    held_out_.clear();
  }

  fs::path folder_;
  const Encoder& encoder_;
  std::vector<int32_t> tokens_;
  std::vector<uint8_t> learned_;  // of the first tokens; all of those behind it are
  std::vector<int64_t> documents_;
  std::vector<uint8_t> held_out_;
  uint64_t tokens_added_ = 0, learned_added_ = 0;
  int64_t shards_ = 0;
  Totals totals_;
};

void fill(const fs::path& folder, const Corpus& corpus, const Encoder& encoder,
          const std::string& hash) {
  Progress progress("tokenising", bytes_of(corpus.files()), Progress::Unit::kBytes);
  StoreWriter writer(folder, encoder);
  std::vector<Document> batch;
  std::vector<uint8_t> held_out;
  size_t batch_bytes = 0;
  uint64_t file_bytes = 0;
  bool foreseen = false;
  const auto flush = [&] {
    stop_if_interrupted();
    writer.add(batch, held_out);
    // By what the first of them take: a full disk should not be learned of hours later.
    if (file_bytes > 0 && !std::exchange(foreseen, true)) {
      const auto needed = static_cast<double>(writer.bytes_on_disk()) *
                          static_cast<double>(bytes_of(corpus.files())) /
                          static_cast<double>(file_bytes);
      const uint64_t free = free_disk_bytes(folder);
      if (needed > static_cast<double>(free)) {
        fail("{}: the tokens need about {} of disk and {} are free", folder.parent_path().string(),
             format_bytes(needed), format_bytes(static_cast<double>(free)));
      }
    }
    progress.add(std::exchange(file_bytes, 0));
    batch.clear();
    held_out.clear();
    batch_bytes = 0;
  };
  warn_of(corpus.read([&](Document&& document, bool is_held_out) {
    batch_bytes += document.text.size();
    file_bytes += document.file_bytes;
    batch.push_back(std::move(document));
    held_out.push_back(is_held_out ? 1 : 0);
    if (batch_bytes >= kBatchBytes) flush();
  }));
  flush();
  writer.finish(hash);
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

}  // namespace

TokenizedDocument encode(const Encoder& encoder, const Document& document) {
  if (!document.messages.empty()) {
    if (!encoder.encode_conversation) fail("{}: conversations cannot be read here", document.where);
    try {
      return encoder.encode_conversation(document.messages);
    } catch (const Error& error) {
      fail("{}: {}", document.where, error.what());
    }
  }
  TokenizedDocument out;
  out.tokens.push_back(encoder.bos);
  const std::vector<int32_t> text = encoder.encode(document.text);
  out.tokens.insert(out.tokens.end(), text.begin(), text.end());
  out.tokens.push_back(encoder.eos);
  return out;
}

std::vector<TokenizedDocument> encode_all(const Encoder& encoder,
                                          std::span<const Document> documents) {
  std::vector<TokenizedDocument> out(documents.size());
  parallel_for(std::ssize(documents), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      out[i] = encode(encoder, documents[i]);
    }
  });
  return out;
}

TokenStore::TokenStore(const fs::path& folder) {
  constexpr uint64_t kMaxManifest = 1 << 16;
  const fs::path path = folder / kManifest;
  const auto manifest = parse_json<json>(read_file(path, kMaxManifest), path.string());
  Totals expected;
  int64_t shards = 0;
  try {
    hash_ = manifest.at("hash").get<std::string>();
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
  std::span<const uint8_t> held_out;
  if (shards_.back()->contains("held_out")) {
    held_out = shards_.back()->tensor("held_out", DType::kU8, Shape{sizes.dim(0)}).span<uint8_t>();
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
    if (!held_out.empty()) documents_.back().held_out = held_out[static_cast<size_t>(i)] != 0;
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

TokenStore tokenise(const Corpus& corpus, const Encoder& encoder, const fs::path& folder) {
  const std::string hash = identity(corpus, encoder);
  recover_folder(folder);
  if (std::optional<TokenStore> found = find_store(folder, hash)) {
    log::info("{}: tokens of {} documents, made before", folder.string(), found->documents());
    found->reused_ = true;
    return std::move(*found);
  }
  write_folder_atomic(folder, [&](const fs::path& fresh) { fill(fresh, corpus, encoder, hash); });
  return TokenStore(folder);
}

Split split_documents(const TokenStore& store) {
  Split split;
  for (int64_t document = 0; document < store.documents(); ++document) {
    (store.is_held_out(document) ? split.valid : split.train).push_back(document);
  }
  return split;
}

}  // namespace minke::train

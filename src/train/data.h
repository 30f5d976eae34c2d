// Tokenised text: made once, kept in memory-mapped shards, and cut into what trains and what is
// held out. How rows are made of it: train/data_stream.h.
//
// A document is its text's tokens between a beginning-of-sentence and an end-of-sentence token.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "train/corpus.h"

namespace minke::train {

struct TokenizedDocument {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> learned;  // a flag a token: whether it is to be predicted; empty: all are
};

// What data needs of a tokenizer. Its functions are called from several threads at once.
struct Encoder {
  std::function<std::vector<int32_t>(std::string_view)> encode;
  std::string hash;  // of whatever decides the tokens
  int32_t bos = 0, eos = 1;
  // Bytes of text that a token stands for; a control token stands for none.
  std::function<int64_t(int32_t)> bytes_of;
  std::function<TokenizedDocument(const std::vector<text::Message>&)> encode_conversation = {};
};

// A text between the two tokens, or a conversation in its format. Error naming a conversation's
// line.
TokenizedDocument encode(const Encoder& encoder, const Document& document);
// In parallel, of documents that are read until they have so many bytes.
std::vector<TokenizedDocument> encode_all(const Encoder& encoder,
                                          std::span<const Document> documents);
inline constexpr size_t kBatchBytes = size_t{1} << 25;

// The documents of a corpus, as tokens in mapped files of one folder:
//
//   manifest.json          hash and totals; what it says the shards must hold
//   tokens-N.safetensors   tokens I32 [n], documents I64 [d, 2]: tokens and bytes of text of each;
//                          learned U8 [n] where not all tokens are to be predicted; held_out U8 [d]
//                          where some documents are
class TokenStore {
 public:
  // Error: the folder holds none, or a damaged one.
  explicit TokenStore(const fs::path& folder);

  int64_t documents() const { return static_cast<int64_t>(documents_.size()); }
  std::span<const int32_t> tokens(int64_t document) const { return at(document).tokens; }
  int64_t bytes(int64_t document) const { return at(document).bytes; }
  // A flag for each of its tokens; empty where all are to be predicted.
  std::span<const uint8_t> learned(int64_t document) const { return at(document).learned; }
  // Whether some of its tokens are not to be predicted, the first of all.
  bool is_conversation(int64_t document) const {
    return !learned(document).empty() && learned(document).front() == 0;
  }
  bool is_held_out(int64_t document) const { return at(document).held_out; }
  // Whether any document is one.
  bool has_conversations() const;
  // Of sources, tokenizer, and how the text was cut.
  const std::string& hash() const { return hash_; }
  // Whether tokenise() found it made.
  bool reused() const { return reused_; }

 private:
  friend TokenStore tokenise(const Corpus&, const Encoder&, const fs::path&);
  struct Stored {
    std::span<const int32_t> tokens;
    int64_t bytes = 0;
    std::span<const uint8_t> learned = {};
    bool held_out = false;
  };
  const Stored& at(int64_t document) const { return documents_[static_cast<size_t>(document)]; }
  void read_shard(const fs::path& path, int64_t largest_token);

  std::vector<std::unique_ptr<checkpoint::SafetensorsFile>> shards_;
  std::vector<Stored> documents_;
  std::string hash_;
  bool reused_ = false;
};

// Tokenises the corpus into `folder`, or finds it done there for the same bytes, held-out part and
// tokenizer. A document of which an end is held out becomes two. `folder` is whole or absent at any
// moment, and all of it is ours.
TokenStore tokenise(const Corpus& corpus, const Encoder& encoder, const fs::path& folder);

// Documents by index, ascending.
struct Split {
  std::vector<int64_t> train, valid;
};

Split split_documents(const TokenStore& store);

}  // namespace minke::train

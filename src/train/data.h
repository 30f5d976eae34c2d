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
#include "train/source.h"

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
  std::function<TokenizedDocument(const std::vector<text::Message>&)> encode_conversation = {};
};

// The documents of a corpus, as tokens in mapped files of one folder:
//
//   manifest.json          hash and totals; what it says the shards must hold
//   tokens-N.safetensors   tokens I32 [n], documents I64 [d, 2]: tokens and bytes of text of each;
//                          learned U8 [n] where not all tokens are to be predicted
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
  // Whether any document is one.
  bool has_conversations() const;
  // Of sources, tokenizer, and how the text was cut.
  const std::string& hash() const { return hash_; }
  // The corpus was one document, whose end became another, to be held out.
  bool tail_was_cut() const { return tail_was_cut_; }
  // Whether tokenise() found it made.
  bool reused() const { return reused_; }

 private:
  friend TokenStore tokenise(const std::vector<SourceFile>&, const std::string&, double,
                             const Encoder&, const fs::path&);
  struct Stored {
    std::span<const int32_t> tokens;
    int64_t bytes = 0;
    std::span<const uint8_t> learned = {};
  };
  const Stored& at(int64_t document) const { return documents_[static_cast<size_t>(document)]; }
  void read_shard(const fs::path& path, int64_t largest_token);

  std::vector<std::unique_ptr<checkpoint::SafetensorsFile>> shards_;
  std::vector<Stored> documents_;
  std::string hash_;
  bool tail_was_cut_ = false, reused_ = false;
};

// Tokenises the files into `folder`, or finds it done there for the same bytes and tokenizer. A
// corpus of one document is cut in two where tail_fraction > 0: at a line break, the end being at
// least that share. `folder` is whole or absent at any moment, and all of it is ours.
TokenStore tokenise(const std::vector<SourceFile>& files, const std::string& text_field,
                    double tail_fraction, const Encoder& encoder, const fs::path& folder);

// Documents by index, ascending.
struct Split {
  std::vector<int64_t> train, valid;
};

// Holds out whole documents, drawn by seed until at least `fraction` of the bytes are held out, at
// least one and never all; of a corpus whose tail was cut, the tail. fraction 0: none.
Split split_documents(const TokenStore& store, double fraction, uint64_t seed);

// Held-out text as the one document that evaluation reads: a beginning-of-sentence token, then
// every byte.
struct HeldOut {
  std::vector<int32_t> tokens;
  int64_t bytes = 0;
};

HeldOut held_out(const TokenStore& store, std::span<const int64_t> documents);
HeldOut held_out(const std::vector<SourceFile>& files, const std::string& text_field,
                 const Encoder& encoder);

}  // namespace minke::train

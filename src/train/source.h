// Text to learn from: documents out of files, folders, globs and standard input.
//
// .txt: the file is a document. .jsonl: each line is an object, one field of which is a document,
// or which holds a conversation: "messages", objects with "role" and "content". Both also as .gz
// and .zst. Nothing is left out silently: what is missing, empty or not UTF-8 is an Error naming
// the file, and the byte or the line. Empty lines and empty texts of .jsonl, which dumps have, are
// passed over and counted.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "text/chat.h"
#include "train/source_stream.h"

namespace minke::train {

// No document, and no line, may be larger once decompressed.
inline constexpr uint64_t kMaxDocumentBytes = uint64_t{1} << 30;

struct SourceFile {
  fs::path path;
  bool lines = false;  // .jsonl
  Compression compression = Compression::kNone;
};

// What a file's name says it holds. Error: neither .txt nor .jsonl.
SourceFile source_file(const fs::path& path);

// Standard input can be read once, so it is kept as a file: read now, or as it was kept before.
enum class StandardInput { kRead, kKept };

// All files that `names` mean, sorted, each once: a name is a file, a folder (searched with its
// subfolders for .txt and .jsonl; names that begin with a dot are passed over, others that do not
// fit are warned of), a glob, or -, which is kept in `keep` as stdin.txt (-.jsonl: stdin.jsonl).
// Error: a name that means no file.
std::vector<SourceFile> find_sources(const std::vector<std::string>& names, const fs::path& keep,
                                     StandardInput standard_input = StandardInput::kRead);

// Of the files themselves, however much text is in them.
uint64_t bytes_of(const std::vector<SourceFile>& files);

struct Document {
  std::string text;  // never empty; UTF-8
  // Of a .jsonl line with "messages" instead of text: who says what; text is then what is said, a
  // message a line.
  std::vector<text::Message> messages = {};
  std::string where = {};   // of a conversation: its file and line
  uint64_t file_bytes = 0;  // of the file, read since the document before: for progress
};

// Lines of .jsonl that hold no document.
struct PassedOver {
  int64_t lines = 0;
  std::string first;  // the file, and the line

  PassedOver& operator+=(const PassedOver& more);
};
// A warning, where there are any.
void warn_of(const PassedOver& passed_over);

// Calls on_document for each document of the file, in order. Error where it has none.
PassedOver read_documents(const SourceFile& file, const std::string& text_field,
                          const std::function<void(Document&&)>& on_document);

// The place of the first byte that is not UTF-8 (overlong forms, surrogates and what lies beyond
// U+10FFFF are not), or npos.
size_t find_invalid_utf8(std::string_view text);

}  // namespace minke::train

#include "train/source.h"

#include <glob.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"

namespace minke::train {
namespace {

std::optional<SourceFile> recognise(const fs::path& path) {
  SourceFile file{path, false, Compression::kNone};
  fs::path name = path.filename();
  if (name.extension() == ".gz") file.compression = Compression::kGzip;
  if (name.extension() == ".zst") file.compression = Compression::kZstd;
  if (file.compression != Compression::kNone) name = name.stem();
  file.lines = name.extension() == ".jsonl";
  if (!file.lines && name.extension() != ".txt") return {};
  return file;
}

fs::path keep_standard_input(const fs::path& keep, bool lines, StandardInput how) {
  fs::path path = keep / (lines ? "stdin.jsonl" : "stdin.txt");
  if (how == StandardInput::kKept) {
    if (!fs::exists(path)) fail("{}: standard input was not kept there", path.string());
    return path;
  }
  make_writable_folder(keep);
  AtomicFile file(path);
  std::array<char, size_t{1} << 16> chunk;
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("standard input: cannot read: {}", std::strerror(errno));
    if (n == 0) break;
    file.write(chunk.data(), static_cast<size_t>(n));
  }
  if (file.bytes() == 0) fail("standard input is empty, expected text");
  file.commit();
  return path;
}

void add_folder(const fs::path& folder, std::vector<SourceFile>& out) {
  std::vector<fs::path> others;
  const size_t before = out.size();
  try {
    fs::recursive_directory_iterator at(folder, fs::directory_options::follow_directory_symlink);
    for (; at != fs::recursive_directory_iterator(); ++at) {
      const bool hidden = at->path().filename().string().starts_with('.');
      if (hidden) {
        at.disable_recursion_pending();
      } else if (!at->is_directory()) {
        const std::optional<SourceFile> file = recognise(at->path());
        if (file) out.push_back(*file);
        if (!file) others.push_back(at->path());
      }
    }
  } catch (const fs::filesystem_error& error) {
    fail("{}: cannot read the folder: {}", folder.string(), error.what());
  }
  if (out.size() == before) {
    fail("{}: no .txt or .jsonl in the folder, expected text (also .gz or .zst)", folder.string());
  }
  if (!others.empty()) {
    log::warn("{}: {} files are neither .txt nor .jsonl and are not read, {} for one",
              folder.string(), others.size(), others.front().string());
  }
}

void add_glob(const std::string& pattern, std::vector<SourceFile>& out) {
  glob_t found{};
  const int result = ::glob(pattern.c_str(), GLOB_ERR | GLOB_BRACE, nullptr, &found);
  std::vector<fs::path> paths;
  for (size_t i = 0; result == 0 && i < found.gl_pathc; ++i) paths.emplace_back(found.gl_pathv[i]);
  ::globfree(&found);
  if (paths.empty()) {
    fail("{}: no such file or folder, and as a pattern it matches nothing", pattern);
  }
  for (const fs::path& path : paths) {
    if (fs::is_directory(path)) {
      add_folder(path, out);
    } else {
      out.push_back(source_file(path));
    }
  }
}

// `where` is a file, or a line of one: then the byte is the line's.
void check_text(const std::string& where, std::string_view text) {
  if (text.empty()) fail("{}: empty, expected text", where);
  const size_t bad = find_invalid_utf8(text);
  if (bad == std::string_view::npos) return;
  const auto before = std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(bad), '\n');
  fail("{}: not UTF-8 at byte {}, after {} line breaks: 0x{:02x}; convert it first", where, bad,
       before, static_cast<unsigned>(static_cast<unsigned char>(text[bad])));
}

constexpr size_t kChunk = size_t{1} << 20;
constexpr std::string_view kBlank = " \t\r";

void read_whole(const SourceFile& file, const std::function<void(Document&&)>& on_document) {
  const std::string where = file.path.string();
  const auto stream = open_stream(file.path, file.compression);
  Document document;
  for (;;) {
    const size_t at = document.text.size();
    document.text.resize(at + kChunk);
    const size_t n = stream->read(std::span(document.text).subspan(at));
    document.text.resize(at + n);
    if (n == 0) break;
    if (document.text.size() > kMaxDocumentBytes) {
      fail("{}: more than {} bytes, too large for one document; cut it into files", where,
           kMaxDocumentBytes);
    }
  }
  check_text(where, document.text);
  document.file_bytes = stream->file_bytes();
  on_document(std::move(document));
}

Document conversation_of(const std::string& where, const nlohmann::json& messages) {
  if (messages.empty()) fail("{}: messages are empty, expected a conversation", where);
  Document out;
  out.where = where;
  const auto text_of = [&](const nlohmann::json& message, const char* key) {
    if (!message.is_object() || !message.contains(key) || !message[key].is_string()) {
      fail("{}: expected messages to be objects with strings \"role\" and \"content\", got {}",
           where, shown(message));
    }
    return message[key].get<std::string>();
  };
  for (const nlohmann::json& message : messages) {
    if (message.is_object() && message.contains("tool_calls") && !message["tool_calls"].is_null()) {
      fail("{}: a message with tool_calls, expected a conversation without tools", where);
    }
    out.messages.push_back({text_of(message, "role"), text_of(message, "content")});
    out.text += (out.text.empty() ? "" : "\n") + out.messages.back().content;
  }
  return out;
}

Document document_of_line(const std::string& where, std::string_view line,
                          const std::string& text_field) {
  using nlohmann::json;
  check_text(where, line);
  auto object = parse_json<json>(line, where);
  if (object.is_object() && !object.contains(text_field) && object.contains("messages") &&
      object["messages"].is_array()) {
    return conversation_of(where, object["messages"]);
  }
  const auto at = object.is_object() ? object.find(text_field) : object.end();
  if (!object.is_object() || at == object.end() || !at->is_string()) {
    fail("{}: expected an object with a string named \"{}\", got {}", where, text_field,
         shown(object));
  }
  return {.text = std::move(at->get_ref<std::string&>())};
}

PassedOver read_lines(const SourceFile& file, const std::string& text_field,
                      const std::function<void(Document&&)>& on_document) {
  const std::string name = file.path.string();
  const auto stream = open_stream(file.path, file.compression);
  std::string pending;
  std::vector<char> chunk(kChunk);
  int64_t line_number = 0;
  uint64_t accounted = 0;
  PassedOver passed_over;
  const auto take = [&](std::string_view line) {
    const std::string where = fmt::format("{}: line {}", name, ++line_number);
    Document document;
    if (line.find_first_not_of(kBlank) != std::string_view::npos) {
      document = document_of_line(where, line, text_field);
    }
    if (document.text.empty() && document.messages.empty()) {
      passed_over += {1, where};
      return;
    }
    check_text(where, document.text);
    document.file_bytes = stream->file_bytes() - accounted;
    accounted = stream->file_bytes();
    on_document(std::move(document));
  };
  while (const size_t n = stream->read(chunk)) {
    std::string_view fresh(chunk.data(), n);
    for (size_t end = 0; (end = fresh.find('\n')) != std::string_view::npos;) {
      pending += fresh.substr(0, end);
      fresh.remove_prefix(end + 1);
      take(pending);
      pending.clear();
    }
    pending += fresh;
    if (pending.size() > kMaxDocumentBytes) {
      fail("{}: line {} has more than {} bytes", name, line_number + 1, kMaxDocumentBytes);
    }
  }
  if (!pending.empty()) take(pending);
  if (line_number == passed_over.lines) fail("{}: empty, expected text", name);
  return passed_over;
}

}  // namespace

SourceFile source_file(const fs::path& path) {
  const std::optional<SourceFile> file = recognise(path);
  if (!file) {
    fail("{}: expected a name in .txt (a document) or .jsonl (a document a line), also .gz or .zst",
         path.string());
  }
  return *file;
}

std::vector<SourceFile> find_sources(const std::vector<std::string>& names, const fs::path& keep,
                                     StandardInput standard_input) {
  std::vector<SourceFile> found;
  for (const std::string& name : names) {
    if (name == "-" || name == "-.jsonl") {
      found.push_back(source_file(keep_standard_input(keep, name != "-", standard_input)));
    } else if (fs::is_directory(name)) {
      add_folder(name, found);
    } else if (fs::exists(name)) {
      found.push_back(source_file(name));
    } else {
      add_glob(name, found);
    }
  }
  if (found.empty()) fail("no text was named, expected files, folders, patterns or -");
  // The same file by two names is one file.
  std::map<fs::path, SourceFile> sorted;
  for (const SourceFile& file : found) {
    std::error_code ec;
    const fs::path real = fs::canonical(file.path, ec);
    if (ec) fail("{}: cannot open: {}", file.path.string(), ec.message());
    sorted.emplace(real, file);
  }
  std::vector<SourceFile> out;
  for (const auto& [real, file] : sorted) out.push_back(file);
  return out;
}

uint64_t bytes_of(const std::vector<SourceFile>& files) {
  uint64_t total = 0;
  for (const SourceFile& file : files) total += fs::file_size(file.path);
  return total;
}

PassedOver& PassedOver::operator+=(const PassedOver& more) {
  if (lines == 0) first = more.first;
  lines += more.lines;
  return *this;
}

void warn_of(const PassedOver& passed_over) {
  if (passed_over.lines == 0) return;
  log::warn("{}: no text there; {} such lines are passed over", passed_over.first,
            passed_over.lines);
}

PassedOver read_documents(const SourceFile& file, const std::string& text_field,
                          const std::function<void(Document&&)>& on_document) {
  if (file.lines) return read_lines(file, text_field, on_document);
  read_whole(file, on_document);
  return {};
}

size_t find_invalid_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  for (size_t i = 0; i < text.size();) {
    const unsigned char lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    // Length, and the range of the second byte (Unicode standard, table 3-7).
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    unsigned low = 0x80, high = 0xbf;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    if (lead < 0xc2 || lead > 0xf4 || i + length > text.size()) return i;
    if (byte(i + 1) < low || byte(i + 1) > high) return i;
    for (size_t k = 2; k < length; ++k) {
      if ((byte(i + k) & 0xc0) != 0x80) return i;
    }
    i += length;
  }
  return std::string_view::npos;
}

}  // namespace minke::train

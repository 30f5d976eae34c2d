#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <nlohmann/json.hpp>

#include "base/rng.h"
#include "train/data_corpus.h"
#include "train/source.h"

namespace minke::train {
namespace {

using testing::ElementsAre;

std::string gzip(std::string_view text) {
  z_stream state{};
  constexpr int kGzip = 15 + 16;
  EXPECT_EQ(deflateInit2(&state, 6, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(text.size() + 1024, '\0');
  state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  state.avail_in = static_cast<uInt>(text.size());
  state.next_out = reinterpret_cast<Bytef*>(out.data());
  state.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&state, Z_FINISH), Z_STREAM_END);
  out.resize(state.total_out);
  deflateEnd(&state);
  return out;
}

std::string zstd(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  const size_t n = ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3);
  EXPECT_EQ(ZSTD_isError(n), 0U);
  out.resize(n);
  return out;
}

// Longer than any buffer, and not the same everywhere.
std::string long_text() {
  std::string text;
  Rng rng(7);
  while (text.size() < (size_t{5} << 20)) text += fmt::format("{} words, ", rng.below(100000));
  return text;
}

std::vector<std::string> texts_of(const fs::path& path, const std::string& field = "text") {
  std::vector<std::string> texts;
  read_documents(source_file(path), field,
                 [&](Document&& document) { texts.push_back(std::move(document.text)); });
  return texts;
}

class SourceTest : public testing::Test {
 protected:
  fs::path put(const fs::path& name, std::string_view text) {
    write_text(folder_ / name, text);
    return folder_ / name;
  }
  std::vector<std::string> found(const std::vector<std::string>& names) {
    std::vector<std::string> out;
    for (const SourceFile& file : find_sources(names, folder_ / "keep")) {
      out.push_back(fs::relative(file.path, folder_.path()).string());
    }
    return out;
  }
  std::string at(const std::string& name) { return (folder_ / name).string(); }

  TemporaryFolder folder_;
};

TEST_F(SourceTest, FindsFilesFoldersAndPatternsOnce) {
  put("b.txt", "b");
  put("a.jsonl", "{}");
  put("deep/er/c.txt.gz", "c");
  put("deep/.hidden/d.txt", "d");
  put("deep/README.md", "not read");
  put("e.jsonl.zst", "e");
  EXPECT_THAT(found({at("")}), ElementsAre("a.jsonl", "b.txt", "deep/er/c.txt.gz", "e.jsonl.zst"));
  EXPECT_THAT(found({at("*.txt"), at("b.txt"), at("deep")}),
              ElementsAre("b.txt", "deep/er/c.txt.gz"));
  EXPECT_THAT(found({at("{b,x}.txt")}), ElementsAre("b.txt"));
  EXPECT_TRUE(source_file("x/a.jsonl.gz").lines);
  EXPECT_EQ(source_file("x/a.jsonl.gz").compression, Compression::kGzip);
  EXPECT_FALSE(source_file("a.txt.zst").lines);
}

TEST_F(SourceTest, NamesThatMeanNoText) {
  fs::create_directories(folder_ / "empty");
  put("a.md", "a");
  EXPECT_THAT([&] { found({at("none.txt")}); }, error_with(at("none.txt"), "no such file"));
  EXPECT_THAT([&] { found({at("*.txt")}); }, error_with(at("*.txt"), "matches nothing"));
  EXPECT_THAT([&] { found({at("empty")}); }, error_with(at("empty"), "no .txt or .jsonl"));
  EXPECT_THAT([&] { found({at("a.md")}); }, error_with(at("a.md"), "expected a name in .txt"));
  EXPECT_THAT([&] { found({}); }, error_with("no text was named"));
}

TEST_F(SourceTest, PlainGzipAndZstdGiveTheSame) {
  const std::string text = long_text();
  EXPECT_THAT(texts_of(put("a.txt", text)), ElementsAre(text));
  EXPECT_THAT(texts_of(put("a.txt.gz", gzip(text))), ElementsAre(text));
  EXPECT_THAT(texts_of(put("a.txt.zst", zstd(text))), ElementsAre(text));
  // Archives one after the other are the texts one after the other.
  EXPECT_THAT(texts_of(put("b.txt.gz", gzip("one ") + gzip("") + gzip("two"))),
              ElementsAre("one two"));
  EXPECT_THAT(texts_of(put("b.txt.zst", zstd("one ") + zstd("") + zstd("two"))),
              ElementsAre("one two"));
}

TEST_F(SourceTest, DamagedArchivesNameTheFile) {
  const std::string text = long_text();
  for (const auto& [name, archive] :
       {std::pair<std::string, std::string>{"a.txt.gz", gzip(text)}, {"a.txt.zst", zstd(text)}}) {
    for (const size_t size : {size_t{0}, size_t{5}, archive.size() / 2, archive.size() - 1}) {
      put(name, archive.substr(0, size));
      EXPECT_THAT([&] { texts_of(at(name)); }, error_with(at(name), "cut short")) << size;
    }
    put(name, archive + "more");
    EXPECT_THAT([&] { texts_of(at(name)); }, error_with(at(name), "archive"));
    put(name, "plain text");
    EXPECT_THAT([&] { texts_of(at(name)); }, error_with(at(name), "damaged"));
    Rng rng(3);
    for (int i = 0; i < 20; ++i) {
      std::string bytes = archive;
      for (int edits = 0; edits < 3; ++edits) {
        bytes[rng.below(bytes.size())] = static_cast<char>(rng.next_u32());
      }
      put(name, bytes);
      try {
        texts_of(at(name));
      } catch (const Error&) {
        // Either is fine; a crash is not.
      }
    }
  }
}

TEST_F(SourceTest, ALineIsADocument) {
  EXPECT_THAT(
      texts_of(put("a.jsonl", "{\"text\":\"one\\ntwo\"}\n{\"id\":3,\"text\":\"\\u00e9\"}\n")),
      ElementsAre("one\ntwo", "é"));
  // The last line may end without a line break, and the field has any name.
  EXPECT_THAT(texts_of(put("a.jsonl", "{\"body\":\"x\"}\r\n{\"body\":\"y\"}"), "body"),
              ElementsAre("x", "y"));
  std::string lines;
  std::vector<std::string> expected;
  for (int i = 0; i < 3; ++i) {
    expected.push_back(long_text().substr(0, (size_t{1} << 20) - 10 + static_cast<size_t>(i)));
    lines += nlohmann::json{{"text", expected.back()}}.dump() + "\n";
  }
  EXPECT_EQ(texts_of(put("a.jsonl.gz", gzip(lines))), expected);
}

TEST_F(SourceTest, LinesWithoutTextArePassedOverAndCounted) {
  put("a.jsonl", "{\"text\":\"a\"}\n\n{\"text\":\"\"}\r\n{\"text\":\"b\"}\n \n");
  EXPECT_THAT(texts_of(at("a.jsonl")), ElementsAre("a", "b"));
  const PassedOver passed_over =
      read_documents(source_file(at("a.jsonl")), "text", [](Document&&) {});
  EXPECT_EQ(passed_over.lines, 3);
  EXPECT_EQ(passed_over.first, at("a.jsonl") + ": line 2");
}

TEST_F(SourceTest, BadLinesAreNamed) {
  const auto fault = [&](std::string_view lines, const auto&... parts) {
    put("a.jsonl", lines);
    EXPECT_THAT([&] { texts_of(at("a.jsonl")); }, error_with(at("a.jsonl"), parts...)) << lines;
  };
  fault("", "empty");
  fault("\n\r\n{\"text\":\"\"}\n", "empty");
  fault("{\"text\":\"a\"}\n{\"text\":", "line 2", "not valid JSON");
  fault("{\"text\":\"a\"}\n[]\n", "line 2", "expected an object", "got []");
  fault("{\"body\":\"a\"}\n", "line 1", "\"text\"");
  fault("{\"text\":1}\n", "line 1", "\"text\"");
  fault("{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n", "line 2", "not UTF-8 at byte 9");
  fault("{\"text\":\"\\ud800\"}\n", "line 1", "not valid JSON");
}

TEST_F(SourceTest, BadTextsAreNamed) {
  put("a.txt", "");
  EXPECT_THAT([&] { texts_of(at("a.txt")); }, error_with(at("a.txt"), "empty"));
  put("a.txt", "caf\xe9\n");
  EXPECT_THAT([&] { texts_of(at("a.txt")); },
              error_with(at("a.txt"), "not UTF-8 at byte 3", "0xe9"));
  EXPECT_THAT([&] { texts_of(at("none.txt")); }, error_with(at("none.txt"), "no such file"));
  fs::create_directories(folder_ / "dir.txt");
  EXPECT_THAT([&] { texts_of(at("dir.txt")); }, error_with(at("dir.txt"), "is a folder"));
}

TEST(Utf8Test, FindsTheFirstBadByte) {
  constexpr size_t kNone = std::string_view::npos;
  for (const char* good :
       {"", "a", "é", "한", "🐋", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf", "\xee\x80\x80"}) {
    EXPECT_EQ(find_invalid_utf8(good), kNone) << good;
  }
  for (const char* bad :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3", "\xe2\x82", "\xf0\x9f\x90", "\xc3(",
        "\xe2\x82(", "\xf0\x9f\x90("}) {
    EXPECT_EQ(find_invalid_utf8(std::string("ab") + bad), 2U) << bad;
  }
}

// Standard input can be read only once.
TEST_F(SourceTest, StandardInputIsKept) {
  put("input", "from a pipe");
  const int before = ::dup(STDIN_FILENO);
  const int file = ::open((folder_ / "input").c_str(), O_RDONLY);
  ASSERT_GE(file, 0);
  ::dup2(file, STDIN_FILENO);
  EXPECT_THAT(found({"-"}), ElementsAre("keep/stdin.txt"));
  EXPECT_THAT([&] { found({"-"}); }, error_with("standard input is empty"));
  ::dup2(before, STDIN_FILENO);
  ::close(before);
  ::close(file);
  const auto kept = find_sources({"-"}, folder_ / "keep", StandardInput::kKept);
  ASSERT_EQ(kept.size(), 1U);
  EXPECT_THAT(texts_of(kept.front().path), ElementsAre("from a pipe"));
  EXPECT_THAT([&] { find_sources({"-"}, folder_ / "other", StandardInput::kKept); },
              error_with("was not kept"));
}

}  // namespace
}  // namespace minke::train

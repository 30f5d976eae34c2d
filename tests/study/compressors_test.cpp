// What compressors need is told of the text that a model reads, in whatever files it lies.
#include "study/compressors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/rng.h"

namespace minke::study {
namespace {

using train::source_file;

std::string words(uint64_t seed, int count) {
  constexpr const char* kWords[] = {"Anne ",  "walked ", "to ",      "the ",
                                    "sea,\n", "and ",    "\"back\" "};
  Rng rng(seed);
  std::string out;
  for (int i = 0; i < count; ++i) out += kWords[rng.below(std::size(kWords))];
  return out;
}

std::string as_compressed_lines(const std::string& text) {
  const std::string line = nlohmann::json({{"body", text}, {"id", 1}}).dump() + "\n";
  std::string out(ZSTD_compressBound(line.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), line.data(), line.size(), 3));
  return out;
}

TEST(Compressors, SeeTheTextAndNotItsFiles) {
  const TemporaryFolder folder;
  const std::string train = words(1, 6000), valid = words(2, 3000);
  write_file_atomic(folder / "a.txt", train);
  write_file_atomic(folder / "v.txt", valid);
  write_file_atomic(folder / "a.jsonl.zst", as_compressed_lines(train));
  write_file_atomic(folder / "v.jsonl.zst", as_compressed_lines(valid));
  const auto plain = run_compressors({source_file(folder / "a.txt")},
                                     {source_file(folder / "v.txt")}, "text", folder.path());
  if (plain.empty()) GTEST_SKIP() << "neither xz nor 7z is installed";
  const auto lines = run_compressors({source_file(folder / "a.jsonl.zst")},
                                     {source_file(folder / "v.jsonl.zst")}, "body", folder.path());
  ASSERT_EQ(lines.size(), plain.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(lines[i].bits_per_byte, plain[i].bits_per_byte) << plain[i].name;
    EXPECT_LT(plain[i].bits_per_byte, 2) << plain[i].name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 4);
}

TEST(Compressors, LeaveMoreTextThanTheyCanBearAlone) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a.txt", words(1, 600));
  const std::vector<train::SourceFile> file = {source_file(folder / "a.txt")};
  const uint64_t both = 2 * fs::file_size(folder / "a.txt");
  EXPECT_NO_THROW(run_compressors(file, file, "text", folder.path(), both));
  EXPECT_THAT([&] { run_compressors(file, file, "text", folder.path(), both - 1); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("larger than")));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

}  // namespace
}  // namespace minke::study

#include "checkpoint/checksums.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace minke::checkpoint {
namespace {

std::string fault_of(const fs::path& folder) {
  try {
    verify_checksums(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Checksums, FindEveryBitThatChanged) {
  const TemporaryFolder folder;
  const std::string weights(1000, 'w');
  write_file_atomic(folder / "weights", weights);
  write_file_atomic(folder / "empty", "");
  EXPECT_EQ(fault_of(folder.path()), "");  // nothing is stated yet
  write_checksums(folder.path());
  EXPECT_EQ(fault_of(folder.path()), "");
  for (const size_t at : {size_t{0}, size_t{500}, size_t{999}}) {
    std::string changed = weights;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    write_file_atomic(folder / "weights", changed);
    EXPECT_THAT(fault_of(folder.path()), testing::HasSubstr("weights: is not as it was saved"));
  }
  write_file_atomic(folder / "weights", weights.substr(1));
  EXPECT_THAT(fault_of(folder.path()), testing::HasSubstr("weights"));
  write_file_atomic(folder / "weights", weights);
  write_file_atomic(folder / "empty", "x");
  EXPECT_THAT(fault_of(folder.path()), testing::HasSubstr("empty"));
  fs::remove(folder / "empty");
  EXPECT_THAT(fault_of(folder.path()), testing::HasSubstr("empty: is missing"));
}

TEST(Checksums, AFileThatStatesNonsenseIsNamed) {
  const TemporaryFolder folder;
  for (const char* text : {"[1]", "{\"a\": 1}", "{\"../a\": \"b\"}", "{"}) {
    write_file_atomic(folder / "checksums.json", text);
    EXPECT_THAT(fault_of(folder.path()), testing::HasSubstr("checksums.json")) << text;
  }
}

}  // namespace
}  // namespace minke::checkpoint

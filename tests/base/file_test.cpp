#include "base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/small_disk.h"

namespace minke {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

TEST(ReadFile, WholeFileOrOneClearError) {
  const TemporaryFolder folder;
  const std::string bytes(3'000'000, '\0');
  write_file_atomic(folder / "zeros", bytes);
  EXPECT_EQ(read_file(folder / "zeros"), bytes);
  EXPECT_EQ(read_file(folder / "zeros", bytes.size()), bytes);
  EXPECT_THAT([&] { read_file(folder / "zeros", bytes.size() - 1); },
              ThrowsMessage<Error>(AllOf(HasSubstr("zeros"), HasSubstr("larger"))));
  EXPECT_THAT([&] { read_file(folder / "absent"); },
              ThrowsMessage<Error>(AllOf(HasSubstr("absent"), HasSubstr("no such file"))));
  EXPECT_THAT([&] { read_file(folder.path()); }, ThrowsMessage<Error>(HasSubstr("is a folder")));
}

TEST(MappedFile, BytesOfTheFile) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "empty", "");
  EXPECT_TRUE(MappedFile(folder / "empty").bytes().empty());
  write_file_atomic(folder / "abc", "abc");
  const MappedFile abc(folder / "abc");
  ASSERT_EQ(abc.bytes().size(), 3U);
  EXPECT_EQ(static_cast<char>(abc.bytes()[2]), 'c');
  EXPECT_THAT([&] { MappedFile(folder / "absent"); }, ThrowsMessage<Error>(HasSubstr("absent")));
  EXPECT_THAT([&] { MappedFile map(folder.path()); },
              ThrowsMessage<Error>(HasSubstr("not a regular file")));
}

TEST(AtomicFile, AppearsWholeAtCommitAndLeavesNothingWithout) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("ne");
    file.write("w");
    EXPECT_EQ(file.bytes(), 3U);
    EXPECT_EQ(read_file(folder / "a"), "old");
    file.commit();
    EXPECT_EQ(read_file(folder / "a"), "new");
  }
  {
    AtomicFile file(folder / "a");
    file.write("never");
  }
  EXPECT_EQ(read_file(folder / "a"), "new");
  EXPECT_THAT(names_in(folder.path()), testing::ElementsAre("a"));
}

TEST(AtomicFile, WhatAKilledProcessLeftIsRemovedAndWhatALivingOneWritesIsNot) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);  // nobody has this number now
  for (const std::string& left :
       {fmt::format(".a.tmp.{}", child), fmt::format(".b.tmp.{}", child), std::string(".a.tmp.1"),
        std::string(".a.tmp.x"), std::string("a.tmp.9")}) {
    write_file_atomic(folder / left, "half");
  }
  write_file_atomic(folder / "a", "whole");
  EXPECT_THAT(names_in(folder.path()),
              testing::UnorderedElementsAre("a", fmt::format(".b.tmp.{}", child), ".a.tmp.1",
                                            ".a.tmp.x", "a.tmp.9"));
}

TEST(AtomicFile, ReplacesNoDeviceAndNoFolder) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "b");
  for (const fs::path& path : {fs::path("/dev/null"), folder / "b"}) {
    EXPECT_THAT([&] { AtomicFile file(path); }, ThrowsMessage<Error>(HasSubstr("is not a file")));
  }
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST(AtomicFolder, ReplacesTheWholeFolder) {
  const TemporaryFolder folder;
  const fs::path target = folder / "model";
  write_folder_atomic(target, [](const fs::path& at) { write_file_atomic(at / "one", "1"); });
  write_folder_atomic(target.string() + "/",
                      [](const fs::path& at) { write_file_atomic(at / "two", "2"); });
  EXPECT_THAT(names_in(target), testing::ElementsAre("two"));
  EXPECT_THAT(names_in(folder.path()), testing::ElementsAre("model"));
}

TEST(AtomicFolder, AFillThatThrowsLeavesTheOldOne) {
  const TemporaryFolder folder;
  const fs::path target = folder / "model";
  write_folder_atomic(target, [](const fs::path& at) { write_file_atomic(at / "one", "1"); });
  const auto fill = [](const fs::path& at) {
    write_file_atomic(at / "two", "2");
    fail("no more");
  };
  EXPECT_THAT([&] { write_folder_atomic(target, fill); }, ThrowsMessage<Error>("no more"));
  EXPECT_THAT(names_in(target), testing::ElementsAre("one"));
  EXPECT_THAT(names_in(folder.path()), testing::ElementsAre("model"));
}

TEST(AtomicFolder, IsThereForReadersWhileItIsReplaced) {
  const TemporaryFolder folder;
  const fs::path target = folder / "model";
  const auto save = [&] {
    write_folder_atomic(target, [](const fs::path& at) { write_file_atomic(at / "one", "1"); });
  };
  save();
  std::jthread writer([&](const std::stop_token& enough) {
    while (!enough.stop_requested()) save();
  });
  for (int i = 0; i < 2000; ++i) EXPECT_EQ(read_file(last_good_folder(target) / "one"), "1");
}

TEST(AtomicFolder, LeavesAloneWhatStandsBesideIt) {
  const TemporaryFolder folder;
  for (const char* name : {".model.old", ".model.new", "model.old"}) {
    fs::create_directories(folder / name);
  }
  const auto fill = [](const fs::path& at) { write_file_atomic(at / "one", "1"); };
  write_folder_atomic(folder / "model", fill);
  write_folder_atomic(folder / "model", fill);
  recover_folder(folder / "model");
  EXPECT_THAT(names_in(folder.path()),
              testing::UnorderedElementsAre(".model.old", ".model.new", "model", "model.old"));
}

TEST(AtomicFolder, RestsOfAllThatIsInAFolderAreRecovered) {
  const TemporaryFolder folder;
  for (const char* name : {"a", ".a.minke-new", ".gone.minke-new", ".b.minke-old", ".minke-new",
                           ".other", "c.minke-old"}) {
    fs::create_directory(folder / name);
  }
  recover_folders_in(folder.path());
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    left.insert(entry.path().filename().string());
  }
  EXPECT_EQ(left, (std::set<std::string>{"a", "b", ".minke-new", ".other", "c.minke-old"}));
  recover_folders_in(folder / "none");
}

TEST(FullDisk, LosesNothingAndSaysSo) {
  const SmallDisk disk(256 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.why_not();
  write_file_atomic(disk / "file", "good");
  write_folder_atomic(disk / "model",
                      [](const fs::path& at) { write_file_atomic(at / "weights", "good"); });
  const std::string large(1 << 20, 'x');
  EXPECT_THAT([&] { write_file_atomic(disk / "file", large); },
              ThrowsMessage<Error>(AllOf(HasSubstr("file"), HasSubstr("No space left"))));
  const auto fill = [&](const fs::path& at) { write_file_atomic(at / "weights", large); };
  EXPECT_THAT([&] { write_folder_atomic(disk / "model", fill); },
              ThrowsMessage<Error>(HasSubstr("No space left")));
  EXPECT_EQ(read_file(disk / "file"), "good");
  EXPECT_EQ(read_file(disk / "model" / "weights"), "good");
  EXPECT_THAT(names_in(disk.path()), testing::ElementsAre("file", "model"));
  EXPECT_LE(free_disk_bytes(disk / "not" / "there"), uint64_t{256} << 10);
}

TEST(UnwritableFolder, IsOneClearError) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "file", "in the way");
  for (const fs::path& under : {folder / "file", folder / "file" / "below"}) {
    EXPECT_THAT(
        [&] { make_writable_folder(under); },
        ThrowsMessage<Error>(AllOf(HasSubstr("file"), HasSubstr("cannot make the folder"))));
  }
  EXPECT_THAT([&] { write_file_atomic(folder / "file" / "below", "x"); },
              ThrowsMessage<Error>(HasSubstr("cannot write")));
  make_writable_folder(folder / "a" / "b");
  EXPECT_TRUE(fs::is_directory(folder / "a" / "b"));
  EXPECT_TRUE(fs::is_empty(folder / "a" / "b"));
}

TEST(UnwritableFolder, OnAReadOnlyDiskIsOneClearError) {
  SmallDisk disk(64 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.why_not();
  make_writable_folder(disk / "run");
  disk.make_read_only();
  EXPECT_THAT([&] { make_writable_folder(disk / "run"); },
              ThrowsMessage<Error>(AllOf(HasSubstr("cannot be written"), HasSubstr("Read-only"))));
  EXPECT_THAT([&] { make_writable_folder(disk / "other"); },
              ThrowsMessage<Error>(HasSubstr("Read-only")));
  EXPECT_THAT([&] { const FolderLock lock(disk / "run"); },
              ThrowsMessage<Error>(HasSubstr("cannot make the lock")));
}

TEST(FolderLock, OneHolderAtATime) {
  const TemporaryFolder folder;
  {
    const FolderLock lock(folder.path());
    EXPECT_THAT([&] { const FolderLock second(folder.path()); },
                ThrowsMessage<Error>(AllOf(HasSubstr(folder.path().string()),
                                           HasSubstr("another run is using this folder"))));
  }
  const FolderLock again(folder.path());
}

TEST(FolderLock, DiesWithItsProcess) {
  const TemporaryFolder folder;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const FolderLock lock(folder.path());
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_THROW(FolderLock{folder.path()}, Error);
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_NO_THROW(FolderLock{folder.path()});
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(Resources, AreMoreThanNothing) {
  EXPECT_GT(free_memory_bytes(), uint64_t{1} << 20);
  const uint64_t before = resident_memory_bytes();
  const std::vector<char> touched(size_t{64} << 20, 'x');
  EXPECT_GE(resident_memory_bytes(), before + touched.size() / 2);
  const TemporaryFolder folder;
  EXPECT_GT(free_disk_bytes(folder / "not" / "yet"), 0U);
}

TEST(Resources, LargePagesAreThoseOfTheMappingsThatBytesLieIn) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "smaps",
                    "00400000-00800000 r--s 00000000 fe:00 11 /a file\n"
                    "Rss:            4096 kB\nAnonHugePages:     0 kB\nFilePmdMapped:   2048 kB\n"
                    "VmFlags: rd mr me ms hg\n"
                    "00800000-00c00000 rw-p 00000000 00:00 0\n"
                    "AnonHugePages:  4096 kB\n");
  const auto of = [&](uintptr_t begin, size_t size) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that nothing reads
    return large_page_bytes({reinterpret_cast<const std::byte*>(begin), size}, folder / "smaps");
  };
  constexpr size_t kMiB = size_t{1} << 20;
  EXPECT_EQ(of(4 * kMiB, 4 * kMiB), 2 * kMiB);
  EXPECT_EQ(of(8 * kMiB, 4 * kMiB), 4 * kMiB);
  EXPECT_EQ(of(4 * kMiB, 8 * kMiB), 6 * kMiB);
  EXPECT_EQ(of(9 * kMiB, kMiB), kMiB);
  EXPECT_EQ(of(12 * kMiB, kMiB), 0U);
  EXPECT_EQ(large_page_bytes({}, folder / "none"), 0U);
}

}  // namespace
}  // namespace minke

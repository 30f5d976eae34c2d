// kill -9 at every moment of a save. A child saves under ptrace and is killed at its n-th stop at a
// system call, for every n until it gets through: between two system calls nothing on disk changes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <functional>
#include <iterator>
#include <string>

#include "base/file.h"

namespace minke {
namespace {

enum class Ended { kKilled, kFinished, kCannotTrace };

// Runs `work` in a child and kills it at its n-th stop.
Ended run_and_kill(const std::function<void()>& work, int n) {
  const pid_t child = ::fork();
  if (child < 0) return Ended::kCannotTrace;
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(2);
    ::raise(SIGSTOP);
    work();
    ::_exit(0);
  }
  int status = 0;
  for (int stop = 0; ::waitpid(child, &status, 0) == child && WIFSTOPPED(status); ++stop) {
    if (stop == n) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      return Ended::kKilled;
    }
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? Ended::kFinished : Ended::kCannotTrace;
}

// Kills `work` at each of its moments; `check` judges what each leaves. Says how many there were.
void kill_at_every_moment(const std::function<void()>& prepare, const std::function<void()>& work,
                          const std::function<void()>& check) {
  constexpr int kMoments = 3000;
  for (int n = 1; n < kMoments; ++n) {
    prepare();
    const Ended ended = run_and_kill(work, n);
    if (ended == Ended::kCannotTrace) GTEST_SKIP() << "no process can be traced here";
    ASSERT_NO_FATAL_FAILURE(check()) << "killed at stop " << n;
    if (testing::Test::HasFailure()) FAIL() << "killed at stop " << n;
    if (ended == Ended::kFinished) {
      EXPECT_GT(n, 8) << "too few moments to be a save";
      return;
    }
  }
  FAIL() << "a save of more than " << kMoments << " system calls";
}

constexpr const char* kParts[] = {"config.json", "weights", "state"};

void save(const fs::path& target, const std::string& what) {
  write_folder_atomic(target, [&](const fs::path& at) {
    for (const char* part : kParts) {
      AtomicFile file(at / part);
      file.write(what);
      file.write(part);
      file.commit();
    }
  });
}

// All parts are of one save, and nothing else is there.
std::string read_save(const fs::path& target) {
  std::string what;
  for (const char* part : kParts) {
    const std::string text = read_file(target / part);
    EXPECT_THAT(text, testing::EndsWith(part));
    const std::string of = text.substr(0, text.size() - std::string(part).size());
    if (what.empty()) what = of;
    EXPECT_EQ(of, what) << "parts of two saves";
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(target), {}), std::ssize(kParts));
  return what;
}

void expect_nothing_but(const fs::path& folder, const char* name) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    EXPECT_EQ(entry.path().filename(), name) << "left behind";
  }
}

// From here on this process is as on a file system that cannot exchange two names.
void deny_exchange() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {std::size(code), code};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    ::_exit(3);
  }
}

enum class Names { kExchanged, kRenamedInTurn };

class CrashDuringASave : public testing::TestWithParam<Names> {
 protected:
  static void save_new(const fs::path& target) {
    if (GetParam() == Names::kRenamedInTurn) deny_exchange();
    save(target, "new");
  }
};

TEST_P(CrashDuringASave, LeavesTheOldFolderOrTheNewOne) {
  const TemporaryFolder folder;
  const fs::path target = folder / "model";
  bool old_seen = false, new_seen = false, elsewhere = false;
  kill_at_every_moment([&] { save(target, "old"); }, [&] { save_new(target); },
                       [&] {
                         // Who reads finds it before anybody has recovered it.
                         const fs::path good = last_good_folder(target);
                         const std::string what = read_save(good);
                         elsewhere |= good != target;
                         recover_folder(target);
                         EXPECT_EQ(read_save(target), what);
                         old_seen |= what == "old";
                         new_seen |= what == "new";
                         EXPECT_THAT(what, testing::AnyOf("old", "new"));
                         expect_nothing_but(folder.path(), "model");
                       });
  EXPECT_TRUE(IsSkipped() || (old_seen && new_seen));
  EXPECT_TRUE(IsSkipped() || elsewhere == (GetParam() == Names::kRenamedInTurn));
}

INSTANTIATE_TEST_SUITE_P(Names, CrashDuringASave,
                         testing::Values(Names::kExchanged, Names::kRenamedInTurn));

TEST(CrashDuringARename, TheNextSaveNeedsNoHelp) {
  const TemporaryFolder folder;
  const fs::path target = folder / "model";
  const auto interrupted = [&] {
    deny_exchange();
    save(target, "new");
  };
  kill_at_every_moment([&] { save(target, "old"); }, interrupted,
                       [&] {
                         save(target, "next");
                         EXPECT_EQ(read_save(target), "next");
                         expect_nothing_but(folder.path(), "model");
                       });
}

TEST(CrashDuringTheFirstSave, LeavesNothingOrTheWhole) {
  const TemporaryFolder folder;
  const fs::path target = folder / "model";
  kill_at_every_moment([&] { fs::remove_all(target); }, [&] { save(target, "new"); },
                       [&] {
                         recover_folder(target);
                         EXPECT_TRUE(!fs::exists(target) || read_save(target) == "new");
                         expect_nothing_but(folder.path(), "model");
                       });
}

// Recovery may itself be cut short.
TEST(CrashDuringRecovery, LosesNothing) {
  const TemporaryFolder folder;
  const fs::path target = folder / "model";
  // The moment between the two renames of a save, as it is left on disk.
  const auto prepare = [&] {
    fs::remove_all(folder / ".model.minke-new");
    save(target, "old");
    fs::rename(target, folder / ".model.minke-old");
    save(folder / "other", "new");
    fs::rename(folder / "other", folder / ".model.minke-new");
  };
  kill_at_every_moment(
      prepare, [&] { recover_folder(target); },
      [&] {
        recover_folder(target);
        EXPECT_EQ(read_save(target), "new");
        expect_nothing_but(folder.path(), "model");
      });
}

TEST(CrashDuringAFile, LeavesTheOldOneOrTheNewOne) {
  const TemporaryFolder folder;
  kill_at_every_moment(
      [&] { write_file_atomic(folder / "file", "old"); },
      [&] { write_file_atomic(folder / "file", "new, and longer"); },
      [&] { EXPECT_THAT(read_file(folder / "file"), testing::AnyOf("old", "new, and longer")); });
}

}  // namespace
}  // namespace minke

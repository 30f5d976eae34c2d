// Runs the program as a user does.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/file.h"

namespace minke::app {

// A folder of the running test's own, gone with it.
class TestFolder {
 public:
  TestFolder() {
    std::string name = (fs::temp_directory_path() / "minke-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no folder " << name;
    path_ = name;
  }
  ~TestFolder() { fs::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  const fs::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

struct ProgramRun {
  int exit_code = -1;  // 128 + n when signal n ended it
  std::string out, err;
};

// `arguments` as a shell reads them; `input` is its standard input.
inline ProgramRun run_program(const std::string& arguments, const std::string& input = "") {
  const TestFolder folder;
  write_file_atomic(folder.path() / "in", input);
  const std::string command = std::string("\"") + MINKE_PROGRAM + "\" " + arguments + " <\"" +
                              (folder / "in") + "\" >\"" + (folder / "out") + "\" 2>\"" +
                              (folder / "err") + "\"";
  const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe)
  ProgramRun run;
  run.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  run.out = read_file(folder.path() / "out");
  run.err = read_file(folder.path() / "err");
  return run;
}

}  // namespace minke::app

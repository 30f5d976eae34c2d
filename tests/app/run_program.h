// Runs the program as a user does, and what it then said.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "base/file.h"

namespace minke {

struct Said {
  int exit_code = -1;  // 128 + n when signal n ended it
  std::string out, err;
};

// `input` is its standard input; standard output goes to the file `output` where one is named.
inline Said run_program(const std::vector<std::string>& arguments, const std::string& input = "",
                        const std::string& output = "") {
  const TemporaryFolder folder;
  const fs::path in = folder / "in", out = folder / "out", err = folder / "err";
  write_file_atomic(in, input);
  std::vector<const char*> argv = {MINKE_PROGRAM};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  argv.push_back(nullptr);
  const fs::path stdout_path = output.empty() ? out : fs::path(output);

  const pid_t child = ::fork();
  if (child == 0) {
    constexpr int kWrite = O_WRONLY | O_CREAT | O_TRUNC;
    const bool ready = ::dup2(::open(in.c_str(), O_RDONLY), STDIN_FILENO) >= 0 &&
                       ::dup2(::open(stdout_path.c_str(), kWrite, 0600), STDOUT_FILENO) >= 0 &&
                       ::dup2(::open(err.c_str(), kWrite, 0600), STDERR_FILENO) >= 0;
    if (ready) ::execv(MINKE_PROGRAM, const_cast<char* const*>(argv.data()));
    ::_exit(127);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child) ADD_FAILURE() << "cannot run the program";
  Said said;
  said.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  if (output.empty()) said.out = read_file(out);
  said.err = read_file(err);
  return said;
}

}  // namespace minke

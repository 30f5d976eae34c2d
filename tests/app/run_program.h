// Runs the program as a user does, and what it then said.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "base/file.h"

namespace minke {

struct Said {
  int exit_code = -1;  // 128 + n when signal n ended it
  std::string out, err;
};

// The program while it runs. `input` is its standard input; standard output goes to the file
// `output` where one is named.
class Program {
 public:
  explicit Program(const std::vector<std::string>& arguments, const std::string& input = "",
                   const std::string& output = "") {
    write_file_atomic(folder_ / "in", input);
    write_file_atomic(folder_ / "err", "");  // a child may be killed before it opens its own
    std::vector<const char*> argv = {MINKE_PROGRAM};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    argv.push_back(nullptr);
    const fs::path in = folder_ / "in", err = folder_ / "err";
    const fs::path out = output.empty() ? folder_ / "out" : fs::path(output);
    child_ = ::fork();
    if (child_ == 0) {
      constexpr int kWrite = O_WRONLY | O_CREAT | O_TRUNC;
      const bool ready = ::dup2(::open(in.c_str(), O_RDONLY), STDIN_FILENO) >= 0 &&
                         ::dup2(::open(out.c_str(), kWrite, 0600), STDOUT_FILENO) >= 0 &&
                         ::dup2(::open(err.c_str(), kWrite, 0600), STDERR_FILENO) >= 0;
      if (ready) ::execv(MINKE_PROGRAM, const_cast<char* const*>(argv.data()));
      ::_exit(127);
    }
    if (child_ < 0) ADD_FAILURE() << "cannot run the program";
  }
  ~Program() {
    if (child_ <= 0) return;
    send(SIGKILL);
    wait();
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void send(int signal) const { ::kill(child_, signal); }
  // What it has said so far.
  std::string err() const { return read_file(folder_ / "err"); }
  Said wait() {
    int status = 0;
    if (::waitpid(child_, &status, 0) != child_) ADD_FAILURE() << "the program is not there";
    child_ = 0;
    Said said;
    said.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (fs::exists(folder_ / "out")) said.out = read_file(folder_ / "out");
    said.err = err();
    return said;
  }

 private:
  TemporaryFolder folder_;
  pid_t child_ = 0;
};

inline Said run_program(const std::vector<std::string>& arguments, const std::string& input = "",
                        const std::string& output = "") {
  return Program(arguments, input, output).wait();
}

}  // namespace minke

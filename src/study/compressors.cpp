#include "study/compressors.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"

namespace minke::study {
namespace {

bool installed(const std::string& program) {
  const char* path = std::getenv("PATH");
  for (std::string rest = path != nullptr ? path : ""; !rest.empty();) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    if (::access((rest.substr(0, colon) + "/" + program).c_str(), X_OK) == 0) return true;
    rest.erase(0, std::min(colon + 1, rest.size()));
  }
  return false;
}

struct Compressor {
  std::string name;
  std::string program;
  std::vector<std::string> arguments;  // "{in}" and "{out}" are replaced
};

const std::vector<Compressor>& compressors() {
  // Debian's 7zip brings 7zz, its p7zip-full 7z.
  static const std::string seven_zip = installed("7zz") ? "7zz" : "7z";
  static const std::vector<Compressor> all = {
      {"xz -9e", "xz", {"-9e", "--keep", "--stdout", "{in}"}},
      {"7-Zip's PPMd, order 8",
       seven_zip,
       {"a", "-bso0", "-bsp0", "-m0=PPMd:o=8:mem=256m", "{out}", "{in}"}},
  };
  return all;
}

// Waits for a child process, or ends it where a signal asks to leave. Its status.
int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (interrupted()) ::kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return status;
}

// Size of what the compressor makes of `in`; nothing where it fails.
std::optional<uint64_t> compressed_size(const Compressor& how, const fs::path& in,
                                        const fs::path& out) {
  std::error_code ec;
  fs::remove(out, ec);
  const bool to_stdout = std::ranges::find(how.arguments, "{out}") == how.arguments.end();
  std::vector<std::string> words = {how.program};
  for (const std::string& argument : how.arguments) {
    words.push_back(argument == "{in}"    ? in.string()
                    : argument == "{out}" ? out.string()
                                          : argument);
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) return std::nullopt;
  if (child == 0) {
    const bool redirected =
        std::freopen("/dev/null", "w", stderr) != nullptr &&
        std::freopen(to_stdout ? out.c_str() : "/dev/null", "w", stdout) != nullptr;
    if (redirected) ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  const int status = wait_for(child);
  stop_if_interrupted();
  if (status != 0) return std::nullopt;
  const auto size = fs::file_size(out, ec);
  fs::remove(out, ec);
  if (ec) return std::nullopt;
  return size;
}

// Within the run's folder, whose disk has room; what a kill left of it goes when it is next made.
class WorkFolder {
 public:
  explicit WorkFolder(fs::path path) : path_(std::move(path)) {
    fs::remove_all(path_);
    fs::create_directory(path_);
  }
  ~WorkFolder() {
    std::error_code ec;
    fs::remove_all(path_, ec);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

}  // namespace

std::vector<CompressorResult> run_compressors(const std::vector<train::SourceFile>& train,
                                              const std::vector<train::SourceFile>& valid,
                                              const std::string& text_field, const fs::path& folder,
                                              uint64_t most_bytes) {
  const WorkFolder work(folder / ".compressed");
  AtomicFile alone(work / "train.txt"), both(work / "both.txt");
  const auto read = [&](const std::vector<train::SourceFile>& files, bool primes) {
    for (const train::SourceFile& file : files) {
      train::read_documents(file, text_field, [&](train::Document&& document) {
        stop_if_interrupted();
        if (!primes && !document.messages.empty()) {
          fail("of conversations the model is measured on what the assistant says alone");
        }
        if (both.bytes() + document.text.size() > most_bytes) {
          fail("the text is larger than {}", format_bytes(static_cast<double>(most_bytes)));
        }
        if (primes) alone.write(document.text);
        both.write(document.text);
      });
    }
  };
  read(train, true);
  read(valid, false);
  const auto valid_bytes = static_cast<double>(both.bytes() - alone.bytes());
  alone.commit();
  both.commit();

  LiveLine line;
  std::vector<CompressorResult> results;
  for (const Compressor& how : compressors()) {
    if (valid_bytes == 0 || !installed(how.program)) continue;
    line.show(fmt::format("compressing the text, to compare with: {}", how.name));
    const fs::path out = work / "compressed.7z";
    const auto primed = compressed_size(how, work / "both.txt", out);
    const auto prime = compressed_size(how, work / "train.txt", out);
    if (!primed || !prime || *primed < *prime) continue;
    results.push_back({how.name, static_cast<double>(*primed - *prime) * 8 / valid_bytes});
  }
  line.clear();
  return results;
}

}  // namespace minke::study

#include "study/compressors.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "base/error.h"

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
  int status = 0;
  if (::waitpid(child, &status, 0) != child || status != 0) return std::nullopt;
  const auto size = fs::file_size(out, ec);
  fs::remove(out, ec);
  if (ec) return std::nullopt;
  return size;
}

}  // namespace

std::vector<CompressorResult> run_compressors(const std::vector<fs::path>& train,
                                              const std::vector<fs::path>& valid,
                                              const fs::path& folder) {
  std::string text;
  for (const fs::path& path : train) text += read_file(path);
  const size_t train_bytes = text.size();
  const fs::path alone = folder / ".train.txt", both = folder / ".both.txt";
  const fs::path out = folder / ".compressed.7z";
  write_file_atomic(alone, text);
  for (const fs::path& path : valid) text += read_file(path);
  write_file_atomic(both, text);
  const auto valid_bytes = static_cast<double>(text.size() - train_bytes);

  std::vector<CompressorResult> results;
  for (const Compressor& how : compressors()) {
    if (valid_bytes == 0 || !installed(how.program)) continue;
    const auto primed = compressed_size(how, both, out), prime = compressed_size(how, alone, out);
    if (!primed || !prime || *primed < *prime) continue;
    results.push_back({how.name, static_cast<double>(*primed - *prime) * 8 / valid_bytes});
  }
  fs::remove(alone);
  fs::remove(both);
  return results;
}

}  // namespace minke::study

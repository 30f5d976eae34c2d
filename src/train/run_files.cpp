#include "train/run_files.h"

#include <chrono>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/version.h"
#include "train/conversation.h"
#include "train/tokenizer.h"

namespace minke::train {
namespace {

using Json = nlohmann::ordered_json;

std::vector<fs::path> paths_of(const std::vector<SourceFile>& files) {
  std::vector<fs::path> out;
  for (const SourceFile& file : files) out.push_back(file.path);
  return out;
}

// What is learned measures nothing. (A run that has begun goes on.)
void refuse_both(const std::vector<fs::path>& train, const std::vector<fs::path>& valid) {
  std::set<fs::path> learned;
  for (const fs::path& path : train) learned.insert(fs::canonical(path));
  for (const fs::path& path : valid) {
    if (!learned.contains(fs::canonical(path))) continue;
    fail("{}: is of both --data and --valid, expected held-out text that is not learned",
         path.string());
  }
}

std::string now_as_text() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

// A path or a pattern, as it means the same in any folder.
std::string from_anywhere(const std::string& name) {
  if (name.empty() || name == "-" || name == "-.jsonl" || fs::path(name).is_absolute()) return name;
  if (fs::exists(name)) return fs::absolute(name).string();
  std::string here;
  for (const char c : fs::current_path().string()) {
    if (std::string_view("\\*?[]{}").find(c) != std::string_view::npos) here += '\\';
    here += c;
  }
  return here + "/" + name;
}

Options from_anywhere(Options options) {
  for (std::string* path : {&options.model, &options.init, &options.tokenizer}) {
    *path = from_anywhere(*path);
  }
  for (auto* names : {&options.data, &options.valid_data}) {
    for (std::string& name : *names) name = from_anywhere(name);
  }
  return options;
}

// A setting in a manifest: enums by their names.
template <typename Field>
Json json_of(const Field& value) {
  if constexpr (Named<Field>) {
    return spelling(value);
  } else {
    return value;
  }
}

template <typename Field>
void read_setting(const char* flag, const Json& from, Field& to) {
  if constexpr (Named<Field>) {
    to = named<Field>(from.get<std::string>(), std::string("--") + flag);
  } else {
    from.get_to(to);
  }
}

}  // namespace

RunText::RunText(const Options& options, const fs::path& out, Kind kind) {
  const auto stdin_is = kind == Kind::kNew ? StandardInput::kRead : StandardInput::kKept;
  const auto files = find_sources(options.data, out, stdin_is);
  const auto valid = options.valid_data.empty() ? std::vector<SourceFile>{}
                                                : find_sources(options.valid_data, out, stdin_is);
  const Corpus corpus(files, options.text_field, valid.empty() ? options.valid_fraction : 0,
                      options.seed);
  train_files_ = paths_of(files);
  valid_files_ = paths_of(valid);
  if (kind == Kind::kNew) refuse_both(train_files_, valid_files_);
  tokenizer_folder_ = options.tokenizer.empty() ? out / "tokenizer" : fs::path(options.tokenizer);
  // One that a start left which then failed may be of another --vocab or --data.
  const bool found = text::has_tokenizer(tokenizer_folder_);
  if (options.tokenizer.empty() && (kind == Kind::kNew || !found)) {
    const auto learned = learn_tokenizer(corpus, options.vocab);
    write_folder_atomic(tokenizer_folder_, [&](const fs::path& into) { learned.save(into); });
    log::info("tokenizer: {} tokens learned from the text", learned.vocabulary());
  }
  tokenizer_ = std::make_unique<text::Tokenizer>(text::Tokenizer::load(tokenizer_folder_));
  encoder_ = encoder_of(*tokenizer_);
  store_ = tokenise(corpus, encoder_, out / "tokens");
  // Whoever talks to the model finds the format that it was taught.
  if (store_->has_conversations() && tokenizer_->chat_template().empty()) {
    tokenizer_folder_ = out / "tokenizer";
    write_folder_atomic(tokenizer_folder_,
                        [&](const fs::path& into) { with_chat_template(*tokenizer_).save(into); });
  }
  split_ = split_documents(*store_);
  if (!valid.empty()) {
    held_out_ = train::held_out(valid, options.text_field, encoder_);
  } else if (!split_.valid.empty()) {
    held_out_ = train::held_out(*store_, split_.valid, encoder_);
  }
  int64_t tokens = 0, bytes = 0;
  for (const int64_t d : split_.train) {
    tokens += static_cast<int64_t>(store_->tokens(d).size());
    bytes += store_->bytes(d);
  }
  log::info("text: {} documents, {} and {} tokens to learn from{}; {}{} held out",
            split_.train.size(), format_bytes(static_cast<double>(bytes)),
            format_count(static_cast<double>(tokens)),
            store_->reused() ? " (tokenised before)" : "",
            format_bytes(static_cast<double>(held_out_.bytes)),
            held_out_.has_conversations() ? " of what the assistant says" : "");
}

std::string RunText::shown(std::span<const int32_t> ids) const {
  std::vector<int32_t> words(ids.begin(), ids.end());
  std::erase_if(words, [&](int32_t id) { return tokenizer_->is_special(id); });
  return tokenizer_->decode(words);
}

void write_manifest(const fs::path& out, const Options& options, const model::ModelConfig& config,
                    const RunText& text, const RunIdentity& identity) {
  Json flags;
  // A run goes on from wherever its folder is named.
  const Options given = from_anywhere(options);
  visit_fields(given, [&](const char* flag, const auto& value, Scope, const auto&...) {
    flags[flag] = json_of(value);
  });
  const auto files = [](const std::vector<fs::path>& paths) {
    Json list = Json::array();
    for (const fs::path& path : paths) list.push_back(fs::absolute(path).string());
    return list;
  };
  const Json manifest = {{"minke", version()},
                         {"commit", commit()},
                         {"compiler", compiler()},
                         {"instruction_set", identity.isa},
                         {"began", now_as_text()},
                         {"data_hash", identity.data_hash},
                         {"tokenizer_hash", identity.tokenizer_hash},
                         {"vocabulary", config.vocab_size},
                         {"train_files", files(text.train_files())},
                         {"valid_files", files(text.valid_files())},
                         {"flags", flags}};
  write_file_atomic(out / "manifest.json", manifest.dump(2) + "\n");
}

Options read_manifest_options(const fs::path& out) {
  const fs::path path = out / "manifest.json";
  const auto manifest = parse_json<Json>(read_file(path), path.string());
  Options options;
  try {
    const Json& flags = manifest.at("flags");
    flags.at("data");  // every run has it
    visit_fields(options, [&](const char* flag, auto& value, Scope, const auto&...) {
      // One that an earlier minke did not have was as it is when it is not given.
      if (flags.contains(flag)) read_setting(flag, flags[flag], value);
    });
    check(options);
  } catch (const std::exception& error) {
    fail("{}: damaged: {}", path.string(), error.what());
  }
  return options;
}

void take_given(Options& into, const Options& from, const std::set<std::string>& given) {
  std::vector<const void*> fields;
  visit_fields(from,
               [&](const char*, const auto& value, const auto&...) { fields.push_back(&value); });
  size_t i = 0;
  visit_fields(into, [&](const char* flag, auto& value, Scope scope, const auto&...) {
    const void* other = fields[i++];
    if (scope == Scope::kFree && given.contains(flag))
      value = *static_cast<const std::remove_reference_t<decltype(value)>*>(other);
  });
  into.stop_at = from.stop_at;
}

void add_loads(std::vector<RouterLoad>& sums, const std::vector<RouterLoad>& step) {
  if (sums.empty()) {
    sums = step;
    return;
  }
  for (size_t i = 0; i < step.size(); ++i) {
    for (size_t e = 0; e < step[i].counts.size(); ++e) sums[i].counts[e] += step[i].counts[e];
    sums[i].bias = step[i].bias;
  }
}

}  // namespace minke::train

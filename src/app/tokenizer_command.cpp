#include "app/tokenizer_command.h"

#include <fmt/format.h>

#include <charconv>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "app/text_options.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "checkpoint/model_files.h"
#include "train/tokenizer.h"

namespace minke::app {
namespace {

using nlohmann::json;

constexpr const char* kLearnFooter =
    R"(Examples:
  minke tokenizer train --data books/ --vocab 4096 --out tokenizers/books
  minke train --data books/ --tokenizer tokenizers/books --minutes 10 --out runs/first)";
constexpr const char* kEncodeFooter =
    R"(Standard input is one text, its line breaks included; its tokens are written on one line,
parted by spaces. Control tokens that it spells are text like any other. With --jsonl, each line
{"text": ...} becomes a line {"ids": [...]}.

Example:
  echo "It is a truth" | minke tokenizer encode runs/first | minke tokenizer decode runs/first)";
constexpr const char* kDecodeFooter =
    R"(Standard input holds token ids, parted by spaces or line breaks; their text is written as it
is, with nothing added. With --jsonl, each line {"ids": [...]} becomes a line {"text": ...}; bytes
that are not UTF-8 are replaced in it by U+FFFD, as JSON cannot hold them.)";

struct LearnArguments {
  std::vector<std::string> data;
  std::string text_field = "text", out;
  int64_t vocab = 4096;
};

void train(const LearnArguments& arguments) {
  const fs::path out = arguments.out;
  if (fs::exists(out) && !fs::is_empty(out)) fail("{}: is not empty", out.string());
  const TemporaryFolder standard_input;
  const auto files = train::find_sources(arguments.data, standard_input.path());
  const auto start = Clock::now();
  const text::Tokenizer tokenizer =
      train::learn_tokenizer(train::Corpus(files, arguments.text_field), arguments.vocab);
  const double seconds = seconds_since(start);
  write_folder_atomic(out, [&](const fs::path& into) { tokenizer.save(into); });
  int64_t bytes = 0, tokens = 0;
  for (const train::SourceFile& file : files) {
    train::read_documents(file, arguments.text_field, [&](train::Document&& document) {
      bytes += std::ssize(document.text);
      tokens += std::ssize(tokenizer.encode(document.text));
    });
  }
  fmt::print("{}: {} tokens learned in {}; {:.2f} bytes a token of {}\n", out.string(),
             tokenizer.vocabulary(), format_duration(seconds),
             static_cast<double>(bytes) / static_cast<double>(std::max<int64_t>(tokens, 1)),
             format_bytes(static_cast<double>(bytes)));
}

// Calls convert for each line's object and prints what it makes of it.
void convert_lines(const char* field, const std::function<json(const json&)>& convert) {
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const std::string where = fmt::format("standard input, line {}", number);
    const json object = parse_json<json>(line, where);
    if (!object.is_object() || !object.contains(field)) fail("{}: no \"{}\"", where, field);
    try {
      print_now(convert(object[field]).dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
    } catch (const json::exception&) {
      fail("{}: \"{}\" is of another type than expected", where, field);
    }
  }
  if (std::cin.bad()) fail("standard input: cannot be read");
}

std::vector<int32_t> parse_ids(std::string_view text) {
  constexpr std::string_view kBetween = " \t\r\n";
  std::vector<int32_t> ids;
  for (size_t at = text.find_first_not_of(kBetween); at != std::string_view::npos;
       at = text.find_first_not_of(kBetween, at)) {
    const size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    int32_t id = 0;
    const auto [last, error] = std::from_chars(text.data() + at, text.data() + end, id);
    if (error != std::errc() || last != text.data() + end) {
      fail("standard input: '{}' is no token id", text.substr(at, std::min(end - at, size_t{40})));
    }
    ids.push_back(id);
    at = end;
  }
  return ids;
}

void encode(const std::string& folder, bool lines) {
  const text::Tokenizer tokenizer = load_tokenizer(folder);
  if (lines) {
    convert_lines("text", [&](const json& text) {
      return json{{"ids", tokenizer.encode(text.get_ref<const std::string&>())}};
    });
  } else {
    print_now(fmt::format("{}\n", fmt::join(tokenizer.encode(read_standard_input()), " ")));
  }
}

void decode(const std::string& folder, bool lines) {
  const text::Tokenizer tokenizer = load_tokenizer(folder);
  if (lines) {
    convert_lines("ids", [&](const json& ids) {
      return json{{"text", tokenizer.decode(ids.get<std::vector<int32_t>>())}};
    });
  } else {
    print_now(tokenizer.decode(parse_ids(read_standard_input())));
  }
}

}  // namespace

void add_tokenizer_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenizer", "Learn a tokenizer; text to tokens and back");
  command->require_subcommand(1);
  command->footer("`minke tokenizer COMMAND --help` explains a command.");

  const auto arguments = std::make_shared<LearnArguments>();
  CLI::App* learn = command->add_subcommand("train", "Learn a byte-level BPE vocabulary from text");
  learn->footer(kLearnFooter);
  learn->add_option("--data", arguments->data, "Text: files, folders, globs or -")->required();
  learn->add_option("--text-field", arguments->text_field, "The field of a .jsonl line")
      ->capture_default_str();
  learn->add_option("--vocab", arguments->vocab, "Tokens, the reserved ones and 256 bytes included")
      ->capture_default_str();
  learn->add_option("--out", arguments->out, "A new folder for tokenizer.json")->required();
  learn->callback([arguments] { train(*arguments); });

  struct Conversion {
    std::string folder;
    bool lines = false;
  };
  const auto add = [&](const char* name, const char* help, const char* footer,
                       void (*convert)(const std::string&, bool)) {
    const auto conversion = std::make_shared<Conversion>();
    CLI::App* sub = command->add_subcommand(name, help);
    sub->footer(footer);
    sub->add_option("DIR", conversion->folder, "A folder with a tokenizer, or a run's")->required();
    sub->add_flag("--jsonl", conversion->lines, "A JSON object a line, in and out");
    sub->callback([conversion, convert] { convert(conversion->folder, conversion->lines); });
  };
  add("encode", "Standard input to token ids", kEncodeFooter, encode);
  add("decode", "Token ids to their text", kDecodeFooter, decode);
}

}  // namespace minke::app

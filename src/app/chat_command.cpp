#include "app/chat_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <memory>
#include <optional>

#include "app/text_options.h"
#include "base/error.h"
#include "infer/text_model.h"
#include "text/chat.h"

namespace minke::app {
namespace {

constexpr const char* kChatFooter =
    R"_(Each line is one message, also where they come from a file; empty ones are passed over. What stands
between two lines of """ is one message, too, whatever its lines say: several of them, empty ones, or /exit.
A model that was never tuned to chat continues the text instead, and says so.

Examples:
  minke chat runs/first
  minke chat DeepSeek-V2-Lite-Chat/ --system "Answer in one sentence." --temperature 0.6)_";

struct ChatOptions {
  TextOptions text;
  std::string system;
  bool thinking = false;
};

// Ctrl-C stops an answer, and never the conversation: it only sets this.
volatile std::sig_atomic_t g_stop = 0;

void catch_ctrl_c() {
  struct sigaction action {};
  action.sa_handler = [](int) { g_stop = 1; };
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // a read of the next line returns, so that a prompt can be shown again
  MINKE_CHECK(::sigaction(SIGINT, &action, nullptr) == 0);
}

struct Message {
  std::string text;
  bool is_command = false;
};

// Of standard input, also where it is no terminal.
class Messages {
 public:
  Messages() : terminal_(::isatty(STDIN_FILENO) == 1) {}

  // Nothing at the end of input.
  std::optional<Message> next() {
    std::optional<std::string> line = next_line("> ", "/exit or Ctrl-D leaves");
    if (!line) return {};
    if (*line != kQuotes) return Message{*line, *line == "/exit" || *line == "/new"};
    std::string text;
    while ((line = next_line("... ", "\"\"\" ends the message")) && *line != kQuotes) {
      text += *line + "\n";
    }
    if (!text.empty()) text.pop_back();
    return Message{text};
  }

 private:
  static constexpr std::string_view kQuotes = "\"\"\"";

  // Without its end.
  std::optional<std::string> next_line(const char* prompt, const char* way_out) {
    show(prompt);
    for (;;) {
      const size_t end = held_.find('\n');
      if (end != std::string::npos) return take(end);
      char buffer[4096];
      const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof buffer);
      if (got > 0) {
        held_.append(buffer, static_cast<size_t>(got));
      } else if (got < 0 && errno == EINTR) {
        if (terminal_) fmt::print(stderr, "\n({})\n", way_out);
        show(prompt);
      } else if (got < 0) {
        fail("standard input: cannot be read");
      } else {
        if (terminal_) fmt::print(stderr, "\n");
        return held_.empty() ? std::nullopt : take(held_.size());
      }
    }
  }

  void show(const char* prompt) const {
    if (terminal_) fmt::print(stderr, "{}", prompt);
  }
  std::optional<std::string> take(size_t end) {
    std::string line = held_.substr(0, end);
    held_.erase(0, end + 1);
    if (line.ends_with('\r')) line.pop_back();
    return line;
  }

  bool terminal_;
  std::string held_;
};

void check_chat(const text::Tokenizer& tokenizer, const std::optional<text::ChatFormat>& format,
                const ChatOptions& options) {
  if (!format && !tokenizer.chat_template().empty()) {
    fail(
        "the model's chat_template says something else than the formats that minke writes, so it "
        "would be asked in other words than it was tuned to; `minke generate` works, and "
        "--chat-format NAME asks all the same, in one of {}",
        fmt::join(text::chat_format_names(), ", "));
  }
  if (!format && !options.system.empty()) {
    fail("--system: this model was never tuned to chat, so it knows no instructions");
  }
  if (options.thinking && (!format || format->kind != text::ChatFormat::Kind::kDeepSeekV31)) {
    fail("--thinking: only DeepSeek-V3.1's format leaves the choice");
  }
}

// What has been said, and how the next answer begins.
class Conversation {
 public:
  Conversation(const infer::TextModel& model, const std::string& system, bool thinking)
      : model_(model), format_(model.chat_format()) {
    options_.thinking = thinking;
    if (!format_) {
      fmt::print(stderr,
                 "this model was never tuned to chat (no chat_template in tokenizer_config.json): "
                 "it continues what you write\n");
    }
    if (system.empty()) return;
    system_.push_back({"system", system});
    messages_ = system_;
  }

  void begin_anew() {
    messages_ = system_;
    text_.clear();
  }

  std::vector<int32_t> prompt(const std::string& message) const {
    if (!format_) return model_.encode_document(text_before_message() + message);
    std::vector<text::Message> messages = messages_;
    messages.push_back({"user", message});
    return text::encode_chat(model_.tokenizer(), *format_, messages, options_);
  }
  void add(const std::string& message, const std::string& answer) {
    text_ = text_before_message() + message + answer;
    messages_.push_back({"user", message});
    messages_.push_back({"assistant", answer});
  }

 private:
  std::string text_before_message() const {
    return text_.empty() || text_.ends_with('\n') ? text_ : text_ + "\n";
  }

  const infer::TextModel& model_;
  std::optional<text::ChatFormat> format_;
  text::ChatOptions options_;
  std::vector<text::Message> system_, messages_;
  std::string text_;  // all of it, where the model only continues
};

void answer(infer::TextModel& model, const infer::Sampling& sampling, int64_t max_tokens,
            Conversation& conversation, const std::string& message) {
  g_stop = 0;
  std::string said;
  const auto on_text = [&](std::string_view text) {
    print_now(text);
    said += text;
  };
  const std::vector<int32_t> prompt = conversation.prompt(message);
  const infer::Generation generation =
      model.write(prompt, sampling, max_tokens, on_text, [] { return g_stop != 0; });
  if (generation.tokens.empty() && generation.stop == infer::Stop::kInterrupted) return;
  if (!said.ends_with('\n')) print_now("\n");
  if (generation.stop == infer::Stop::kContext) {
    fmt::print(stderr, "(the context is full: /new begins another conversation)\n");
  }
  conversation.add(message, said);
}

void run_chat(const ChatOptions& options) {
  infer::TextModel model = load_text_model(
      options.text,
      [&](const text::Tokenizer& tokenizer, const std::optional<text::ChatFormat>& format) {
        check_chat(tokenizer, format, options);
      });
  const infer::Sampling sampling = sampling_of(options.text, model.generation_config());
  Conversation conversation(model, options.system, options.thinking);
  catch_ctrl_c();
  Messages messages;
  while (const std::optional<Message> message = messages.next()) {
    if (message->is_command && message->text == "/exit") return;
    if (message->is_command) conversation.begin_anew();
    if (message->is_command || message->text.empty()) continue;
    try {
      answer(model, sampling, options.text.max_tokens, conversation, message->text);
    } catch (const Error& error) {
      // This answer's fault alone, say a context that it does not fit.
      fmt::print(stderr, "minke: {} (/new forgets what was said)\n", error.what());
    }
  }
}

}  // namespace

void add_chat_command(CLI::App& app) {
  const auto options = std::make_shared<ChatOptions>();
  options->text.max_tokens = 1024;
  CLI::App* command = app.add_subcommand(
      "chat",
      "Talk to a model, a line at a time: /exit leaves, /new forgets, Ctrl-C stops an answer");
  command->footer(kChatFooter);
  add_text_options(*command, options->text);
  command->add_option("--system", options->system, "What the model is told before all else");
  command
      ->add_option("--chat-format", options->text.chat_format,
                   "The format of its conversations, whatever its template says")
      ->check(CLI::IsMember(text::chat_format_names()));
  command->add_flag("--thinking", options->thinking, "DeepSeek-V3.1: think before each answer");
  command->callback([options] { run_chat(*options); });
}

}  // namespace minke::app

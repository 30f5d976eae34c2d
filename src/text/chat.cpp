#include "text/chat.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace minke::text {
namespace {

using Kind = ChatFormat::Kind;

constexpr const char *kUser = "<｜User｜>", *kAssistant = "<｜Assistant｜>",
                     *kEndOfSentence = "<｜end▁of▁sentence｜>", *kEndOfThought = "</think>",
                     *kImEnd = "<|im_end|>";

// A template's text that must be there, and that must not, whatever its spaces.
struct Signature {
  Kind kind;
  std::vector<std::string_view> has, lacks;
};

const std::vector<Signature>& signatures() {
  static const std::vector<Signature> all = {
      {Kind::kDeepSeekV2,
       {"'User:'+message['content']+'", "'Assistant:'+message['content']+eos_token",
        "message['role']=='system'", "{{'Assistant:'}}"},
       {"<think>"}},
      {Kind::kDeepSeekV3,
       {"'<｜User｜>'+message['content']}}",
        "'<｜Assistant｜>'+message['content']+'<｜end▁of▁sentence｜>'", "{{'<｜Assistant｜>'}}"},
       {"<think>", "</think>"}},
      {Kind::kDeepSeekR1,
       {"'<｜User｜>'+message['content']}}", "content.split('</think>')[-1]",
        "'<｜Assistant｜>'+content+'<｜end▁of▁sentence｜>'}}"},
       {"thinking"}},
      {Kind::kDeepSeekV31,
       {"'<｜User｜>'+message['content']}}", "content.split('</think>',1)[1]",
        "content+'<｜end▁of▁sentence｜>'", "is_last_user", "ifnotthinking", "{{'<think>'}}"},
       {}},
      {Kind::kKimi,
       {"<|im_system|>system<|im_middle|>", "<|im_user|>", "<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>"},
       {"<think>", "</think>"}},
  };
  return all;
}

// What a template says where messages[0] is no system text: its own words between two control
// tokens, and a line's end that it leaves after them (spaces before a tag are none of its text, and
// a tag with a dash takes the line's end, too).
std::string default_system_of(const std::string& chat_template) {
  constexpr std::string_view kBegin = "<|im_system|>system<|im_middle|>";
  for (size_t at = chat_template.find(kBegin); at != std::string::npos;
       at = chat_template.find(kBegin, at + 1)) {
    const size_t from = at + kBegin.size(), to = chat_template.find(kImEnd, from);
    if (to == std::string::npos) break;
    const std::string words = chat_template.substr(from, to - from);
    if (words.empty() || words.find('{') != std::string::npos) continue;
    const size_t after = to + std::string_view(kImEnd).size(),
                 tag = chat_template.find("{%", after);
    const bool keeps_line = tag != std::string::npos &&
                            !chat_template.substr(tag).starts_with("{%-") &&
                            chat_template.substr(after, tag - after).find('\n') == 0;
    return words + kImEnd + (keeps_line ? "\n" : "");
  }
  return {};
}

// Builds tokens. Text of messages and of the format is joined, and tokenised where a control token
// comes between.
class Writer {
 public:
  explicit Writer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void say(std::string_view message) { text_ += message; }
  void control(std::string_view format) {
    tokenizer_.split_control(
        format, [&](std::string_view between) { text_ += between; },
        [&](int32_t id) { token(id); });
  }
  void token(int32_t id) {
    flush();
    ids_.push_back(id);
  }
  std::vector<int32_t> finish() {
    flush();
    return std::move(ids_);
  }

 private:
  void flush() {
    const std::vector<int32_t> more = tokenizer_.encode(text_);
    ids_.insert(ids_.end(), more.begin(), more.end());
    text_.clear();
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  std::string text_;
};

std::string system_text(const ChatFormat& format, const std::vector<Message>& messages) {
  std::string out;
  bool first = true;
  for (const Message& message : messages) {
    if (message.role != "system") continue;
    if (!format.joins_systems) out.clear();
    out += (first || !format.joins_systems ? "" : "\n\n") + message.content;
    first = false;
  }
  return out;
}

// What of an answer is said again in later turns.
std::string_view remembered(const ChatFormat& format, std::string_view answer) {
  if (format.kind == Kind::kDeepSeekV3) return answer;
  const size_t end =
      format.kind == Kind::kDeepSeekR1 ? answer.rfind(kEndOfThought) : answer.find(kEndOfThought);
  if (end == std::string_view::npos) return answer;
  return answer.substr(end + std::string_view(kEndOfThought).size());
}

void write_deepseek_v2(Writer& out, const std::vector<Message>& messages, bool prompt) {
  for (const Message& message : messages) {
    if (message.role == "user") out.control("User: ");
    if (message.role == "assistant") out.control("Assistant: ");
    out.say(message.content);
    out.control(message.role == "assistant" ? kEndOfSentence : "\n\n");
  }
  if (prompt) out.control("Assistant:");
}

void write_deepseek_v3(Writer& out, const ChatFormat& format, const std::vector<Message>& messages,
                       const ChatOptions& options) {
  const bool v31 = format.kind == Kind::kDeepSeekV31;
  out.say(system_text(format, messages));
  bool asked = false;
  for (const Message& message : messages) {
    if (message.role == "user") {
      out.control(kUser);
      out.say(message.content);
    } else if (message.role == "assistant") {
      // V3.1 begins an answer only where one was asked for.
      if (!v31 || asked) out.control(kAssistant);
      if (v31 && asked) out.control(format.skips_thought);
      out.say(remembered(format, message.content));
      out.control(kEndOfSentence);
    }
    if (message.role != "system") asked = message.role == "user";
  }
  if (!options.add_generation_prompt || (v31 && !asked)) return;
  out.control(kAssistant);
  out.control(!v31 || options.thinking ? format.begins_thought : format.skips_thought);
}

void write_kimi(Writer& out, const ChatFormat& format, const std::vector<Message>& messages,
                bool prompt) {
  if (!messages.empty() && messages[0].role != "system" && !format.default_system.empty()) {
    out.control("<|im_system|>system<|im_middle|>" + format.default_system);
  }
  for (const Message& message : messages) {
    out.control(fmt::format("<|im_{0}|>{0}<|im_middle|>", message.role));
    out.say(message.content);
    out.control(kImEnd);
  }
  if (prompt) out.control("<|im_assistant|>assistant<|im_middle|>");
}

std::vector<const char*> controls_of(Kind kind) {
  if (kind == Kind::kDeepSeekV2) return {kEndOfSentence};
  if (kind == Kind::kKimi) {
    return {"<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", kImEnd};
  }
  return {kUser, kAssistant, kEndOfSentence};
}

}  // namespace

std::optional<ChatFormat> chat_format(const Tokenizer& tokenizer) {
  const std::string& source = tokenizer.chat_template();
  std::string dense = source;
  std::erase_if(dense, [](unsigned char c) { return std::isspace(c) != 0; });
  const auto has = [&](std::string_view text) { return dense.find(text) != std::string::npos; };
  for (const Signature& signature : signatures()) {
    if (!std::ranges::all_of(signature.has, has) || std::ranges::any_of(signature.lacks, has)) {
      continue;
    }
    ChatFormat format;
    format.kind = signature.kind;
    format.joins_systems = has("ns.system_prompt+");
    if (format.kind == Kind::kDeepSeekR1 && has("'<｜Assistant｜><think>\\n'")) {
      format.begins_thought = "<think>\n";
    } else if (format.kind == Kind::kDeepSeekR1 && !has("{{'<｜Assistant｜>'}}")) {
      return {};  // an answer begins in yet another way
    } else if (format.kind == Kind::kDeepSeekV31) {
      format.begins_thought = "<think>";
      format.skips_thought = has("'<think></think>'") ? "<think></think>" : kEndOfThought;
    } else if (format.kind == Kind::kKimi) {
      format.default_system = default_system_of(source);
    }
    return format;
  }
  return {};
}

std::string_view end_of_answer(const ChatFormat& format) {
  return format.kind == Kind::kKimi ? kImEnd : kEndOfSentence;
}

std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const ChatFormat& format,
                                 const std::vector<Message>& messages, const ChatOptions& options) {
  for (const char* content : controls_of(format.kind)) {
    if (!tokenizer.added_id(content)) {
      fail("the tokenizer has no token {}: it cannot chat", content);
    }
  }
  for (const Message& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      fail("chat role \"{}\": expected system, user or assistant{}", message.role,
           message.role == "tool" ? "; conversations with tools are not written here" : "");
    }
  }
  Writer out(tokenizer);
  if (format.kind != Kind::kKimi) {
    if (!tokenizer.bos()) fail("the tokenizer has no bos token: it cannot chat");
    out.token(*tokenizer.bos());
  }
  if (format.kind == Kind::kDeepSeekV2) {
    write_deepseek_v2(out, messages, options.add_generation_prompt);
  } else if (format.kind == Kind::kKimi) {
    write_kimi(out, format, messages, options.add_generation_prompt);
  } else {
    write_deepseek_v3(out, format, messages, options);
  }
  return out.finish();
}

}  // namespace minke::text

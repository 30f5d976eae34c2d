#include "text/chat.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "text/chat_template.h"

namespace minke::text {
namespace {

using Kind = ChatFormat::Kind;

constexpr const char *kUser = "<｜User｜>", *kAssistant = "<｜Assistant｜>",
                     *kEndOfSentence = "<｜end▁of▁sentence｜>", *kEndOfThought = "</think>",
                     *kImEnd = "<|im_end|>";

// A template's whole text, in parts (spaces outside of literals left out), and what it makes of the
// format. Of several of a name the first is what --chat-format means.
struct Signature {
  const char* name;
  ChatFormat format;
  std::set<std::string> says;
  std::string forgets = {};  // how an earlier answer loses its thought
};

constexpr const char *kForgets = "content=content.split('</think>')[-1]",
                     *kJoins = "ns.system_prompt=ns.system_prompt+'\\n\\n'+message['content']",
                     *kFirst = "ns.system_prompt=ns.system_prompt+message['content']",
                     *kLast = "ns.system_prompt=message['content']";

const std::vector<Signature>& signatures() {
  const auto with = [](Kind kind, bool asks, const char* thinks = "", const char* skips = "") {
    ChatFormat out;
    out.kind = kind;
    out.asks = asks;
    out.begins_thought = thinks;
    out.skips_thought = skips;
    return out;
  };
  const auto deepseek = [](std::set<std::string> says) {
    says.insert({"bos_token", "ns.system_prompt"});
    return says;
  };
  const auto kimi = [](std::set<std::string> says) {
    says.insert({"'<|im_end|>'", "'<|im_assistant|>assistant<|im_middle|>'"});
    return says;
  };
  const auto v31 = [&](const char* skips) {
    return deepseek({"'<｜User｜>'+message['content']", "'<｜Assistant｜>'", "'<think>'",
                     fmt::format("'{}'", skips), "content+'<｜end▁of▁sentence｜>'"});
  };
  const std::string asked = "'<｜User｜>'+message['content']", asks = "+'<｜Assistant｜>'",
                    answered = "'<｜Assistant｜>'+content+'<｜end▁of▁sentence｜>'",
                    answer = "'<｜Assistant｜>'", thought = "'<｜Assistant｜><think>\\n'",
                    shortened = "content=content.split('</think>',1)[1]";
  static const std::vector<Signature> all = {
      {"v2",
       with(Kind::kDeepSeekV2, false),
       {"bos_token", "'User: '+message['content']+'\\n\\n'",
        "'Assistant: '+message['content']+eos_token", "message['content']+'\\n\\n'",
        "'Assistant:'"}},
      {"v3", with(Kind::kDeepSeekV3, false),
       deepseek({asked, "'<｜Assistant｜>'+message['content']+'<｜end▁of▁sentence｜>'", answer})},
      {"v3-0324", with(Kind::kDeepSeekV3, true),
       deepseek({asked + asks, "content+'<｜end▁of▁sentence｜>'", answer})},
      {"r1", with(Kind::kDeepSeekR1, false, "<think>\n"), deepseek({asked, answered, thought}),
       kForgets},
      {"r1", with(Kind::kDeepSeekR1, false), deepseek({asked, answered, answer}), kForgets},
      {"r1-0528", with(Kind::kDeepSeekR1, true),
       deepseek({"'<｜User｜>'+content" + asks, "content+'<｜end▁of▁sentence｜>'", answer}),
       kForgets},
      {"v3.1", with(Kind::kDeepSeekV31, false, "<think>", kEndOfThought), v31(kEndOfThought),
       shortened},
      {"v3.1", with(Kind::kDeepSeekV31, false, "<think>", "<think></think>"),
       v31("<think></think>"), shortened},
      {"kimi", with(Kind::kKimi, false),
       kimi({"'<|im_system|>system<|im_middle|>'", "'<|im_user|>user<|im_middle|>'",
             "message['content']"})},
      {"kimi", with(Kind::kKimi, false),
       kimi({"'<|im_system|>'", "'<|im_user|>'", "'<|im_assistant|>'", "message['role']",
             "'<|im_middle|>'", "message['content']"})},
      {"kimi", with(Kind::kKimi, false),
       kimi({"'<|im_system|>'", "'<|im_user|>'", "'<|im_assistant|>'", "role_name",
             "'<|im_middle|>'", "set_roles(message)", "c", "render_content(message)"})},
  };
  return all;
}

// Assignments that change nothing of what is said, or only as signatures know.
bool is_known(const std::string& assignment) {
  static const std::set<std::string, std::less<>> kKnown = {
      "add_generation_prompt=false",
      "thinking=false",
      "thinking=enable_thinking",
      "content=message['content']",
      "c=msg.get('content')",
      "role_name=message.get('name')ormessage['role']",
      kJoins,
      kFirst,
      kLast};
  if (assignment.starts_with("ns=namespace(")) {
    return assignment.find("system_prompt=") == assignment.find("system_prompt=''");
  }
  return assignment.starts_with("ns.is_") || kKnown.contains(assignment);
}

// Kimi's say an end within a literal or beside it, may show pictures, and name a system text of
// their own: what they say without these, and that text.
std::string take_default_system(std::set<std::string>& says) {
  const std::string begin = "'<|im_system|>system<|im_middle|>",
                    joined = "message['content']+'<|im_end|>'";
  if (says.erase(joined) > 0) says.insert({"message['content']", "'<|im_end|>'"});
  std::erase_if(says, [](const std::string& piece) {
    return piece == "content['text']" || piece.starts_with("'<|media_start|>");
  });
  const auto at = std::ranges::find_if(says, [&](const std::string& piece) {
    return piece.starts_with(begin) && piece.find(kImEnd) != std::string::npos;
  });
  if (at == says.end()) return {};
  std::string words = at->substr(begin.size(), at->size() - begin.size() - 1);
  for (size_t i = 0; (i = words.find("\\n", i)) != std::string::npos;) words.replace(i, 2, "\n");
  says.erase(at);
  return words;
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
      if (format.asks) out.control(kAssistant);
    } else if (message.role == "assistant") {
      // V3.1 begins an answer only where one was asked for.
      if (!format.asks && (!v31 || asked)) out.control(kAssistant);
      if (v31 && asked) out.control(format.skips_thought);
      out.say(remembered(format, message.content));
      out.control(kEndOfSentence);
    }
    if (message.role != "system") asked = message.role == "user";
  }
  if (!options.add_generation_prompt || (v31 && !asked) || (format.asks && asked)) return;
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
  std::optional<TemplateParts> parts = template_parts(tokenizer.chat_template());
  if (!parts) return {};
  const std::string default_system = take_default_system(parts->says);
  for (const Signature& signature : signatures()) {
    if (parts->says != signature.says) continue;
    std::set<std::string> sets = parts->sets;
    if (!signature.forgets.empty() && sets.erase(signature.forgets) == 0) continue;
    if (!std::ranges::all_of(sets, is_known)) continue;
    ChatFormat format = signature.format;
    format.joins_systems = sets.contains(kJoins);
    format.default_system = default_system;
    // All system texts, the first without what parts them; or the last of them alone.
    const bool knows_systems = format.joins_systems
                                   ? sets.contains(kFirst) && !sets.contains(kLast)
                                   : sets.contains(kLast) && !sets.contains(kFirst);
    if (signature.says.contains("ns.system_prompt") && !knows_systems) continue;
    return format;
  }
  return {};
}

std::vector<std::string> chat_format_names() {
  std::vector<std::string> out;
  for (const Signature& signature : signatures()) {
    if (out.empty() || out.back() != signature.name) out.emplace_back(signature.name);
  }
  return out;
}

ChatFormat chat_format_named(std::string_view name) {
  for (const Signature& signature : signatures()) {
    if (signature.name == name) return signature.format;
  }
  fail("chat format \"{}\": expected one of {}", name, fmt::join(chat_format_names(), ", "));
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

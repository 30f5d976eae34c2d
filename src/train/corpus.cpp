#include "train/corpus.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/rng.h"

namespace minke::train {
namespace {

constexpr int kRule = 2;  // the one above; another number: another choice
// Of the share that was asked for.
constexpr double kLeast = 0.5, kMost = 2;

DocumentSize size_of(const Document& document) {
  const std::string& text = document.text;
  const size_t at =
      document.messages.empty() ? text.find('\n', text.size() / 2) : std::string::npos;
  return {std::ssize(text), at == std::string::npos ? -1 : static_cast<int64_t>(at)};
}

bool can_be_cut(const DocumentSize& document, int64_t tail_bytes) {
  return document.line_break >= 0 && document.line_break < document.bytes - tail_bytes;
}

// Behind the last line break that leaves the end of the text that large.
size_t tail_begin(std::string_view text, int64_t tail_bytes) {
  return text.rfind('\n', text.size() - static_cast<size_t>(tail_bytes) - 1) + 1;
}

double bytes_in_all(std::span<const DocumentSize> documents) {
  double sum = 0;
  for (const DocumentSize& document : documents) sum += static_cast<double>(document.bytes);
  return sum;
}

// What cannot be as large as was asked for is said.
void describe(const HeldOutChoice& choice, std::span<const DocumentSize> documents,
              double fraction) {
  const double share = fraction * bytes_in_all(documents);
  auto held = static_cast<double>(choice.tail_bytes);
  for (const int64_t d : choice.documents) {
    held += static_cast<double>(documents[static_cast<size_t>(d)].bytes);
  }
  if (held > kMost * share || held < kLeast * share) {
    log::warn(
        "{} are held out, where --valid-fraction {} is {}: the documents are too large, and none "
        "has a line break to cut it at; --valid names held-out text",
        format_bytes(held), fraction, format_bytes(share));
  }
}

}  // namespace

HeldOutChoice choose_held_out(std::span<const DocumentSize> documents, double fraction,
                              uint64_t seed) {
  MINKE_CHECK(fraction > 0 && fraction < 1 && !documents.empty());
  const auto at = [&](int64_t d) -> const DocumentSize& {
    return documents[static_cast<size_t>(d)];
  };
  HeldOutChoice out;
  if (documents.size() == 1) {
    const auto bytes = static_cast<double>(at(0).bytes);
    const int64_t tail = at(0).bytes - static_cast<int64_t>(std::floor(bytes * (1 - fraction)));
    return can_be_cut(at(0), tail) ? HeldOutChoice{{}, 0, tail} : out;
  }
  std::vector<int64_t> order(documents.size());
  std::iota(order.begin(), order.end(), 0);
  Rng rng(stream_key(seed, 0, "data.held_out"));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  const double share = fraction * bytes_in_all(documents);
  double held = 0;
  for (const int64_t d : order) {
    if (held >= share || out.documents.size() + 1 == order.size()) break;
    const auto bytes = static_cast<double>(at(d).bytes);
    if (held + bytes > kMost * share) continue;
    out.documents.push_back(d);
    held += bytes;
  }
  std::ranges::sort(out.documents);
  if (held >= kLeast * share) return out;
  const auto missing = static_cast<int64_t>(std::ceil(share - held));
  for (const int64_t d : order) {
    if (std::ranges::binary_search(out.documents, d) || !can_be_cut(at(d), missing)) continue;
    out.cut = d;
    out.tail_bytes = missing;
    return out;
  }
  if (out.documents.empty()) {
    out.documents = {*std::ranges::min_element(order, {}, [&](int64_t d) { return at(d).bytes; })};
  }
  return out;
}

Corpus::Corpus(std::vector<SourceFile> files, std::string text_field, double held_out,
               uint64_t seed)
    : files_(std::move(files)),
      text_field_(std::move(text_field)),
      held_out_(held_out),
      seed_(seed) {
  MINKE_CHECK(!files_.empty() && held_out >= 0 && held_out < 1);
}

std::string Corpus::settings() const {
  std::string out = fmt::format("{};{};", held_out_, text_field_);
  if (held_out_ > 0) out += fmt::format("held out by rule {}, seed {};", kRule, seed_);
  return out;
}

const HeldOutChoice& Corpus::choice() const {
  if (choice_) return *choice_;
  if (held_out_ == 0) return choice_.emplace();
  Progress progress("reading text to hold out some", bytes_of(files_), Progress::Unit::kBytes);
  std::vector<DocumentSize> documents;
  for (const SourceFile& file : files_) {
    read_documents(file, text_field_, [&](Document&& document) {
      stop_if_interrupted();
      documents.push_back(size_of(document));
      progress.add(document.file_bytes);
    });
  }
  HeldOutChoice out = choose_held_out(documents, held_out_, seed_);
  if (out.documents.empty() && out.cut < 0) {
    fail(
        "{}: the only document, of which {} cannot be held out for want of line breaks; name "
        "held-out text, or give more",
        files_.front().path.string(), held_out_);
  }
  describe(out, documents, held_out_);
  return choice_.emplace(std::move(out));
}

PassedOver Corpus::read(const std::function<void(Document&&, bool)>& on_document) const {
  const HeldOutChoice& held_out = choice();
  PassedOver passed_over;
  int64_t number = 0;
  auto next = held_out.documents.begin();
  for (const SourceFile& file : files_) {
    passed_over += read_documents(file, text_field_, [&](Document&& document) {
      const int64_t here = number++;
      if (here == held_out.cut) {
        const size_t at = tail_begin(document.text, held_out.tail_bytes);
        Document tail{.text = document.text.substr(at), .file_bytes = document.file_bytes};
        document.text.resize(at);
        document.file_bytes = 0;
        on_document(std::move(document), false);
        on_document(std::move(tail), true);
        return;
      }
      const bool is_held_out = next != held_out.documents.end() && *next == here;
      if (is_held_out) ++next;
      on_document(std::move(document), is_held_out);
    });
  }
  return passed_over;
}

}  // namespace minke::train

#include "train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace minke::train {
namespace {

struct Window {
  int64_t begin = 0;  // the token it starts at
  int64_t first = 0;  // positions from here on count: those before were another window's
};

std::vector<Window> windows_of(int64_t tokens, int64_t size) {
  std::vector<Window> out;
  for (int64_t begin = 0;; begin += size / 2) {
    out.push_back({begin, begin == 0 ? 0 : size / 2});
    if (begin + size >= tokens - 1) return out;
  }
}

// `most` of them (0: all), evenly over the text.
std::vector<Window> spread(std::vector<Window> windows, int64_t most) {
  const int64_t count = std::ssize(windows);
  if (most == 0 || count <= most) return windows;
  std::vector<Window> out;
  for (int64_t i = 0; i < most; ++i) out.push_back(windows[static_cast<size_t>(i * count / most)]);
  return out;
}

}  // namespace

double EvalDepth::perplexity() const { return std::exp(loss); }

bool Evaluation::loads_known() const {
  return !routers.empty() &&
         std::ranges::any_of(routers[0].counts, [](int64_t n) { return n > 0; });
}

Evaluation evaluate(model::Transformer& model, const HeldOut& text,
                    const std::function<int64_t(int32_t)>& bytes_of, const EvalOptions& options,
                    const model::Pass& pass) {
  const std::vector<int32_t>& tokens = text.tokens;
  const int64_t S = options.window, depths = model.config().num_nextn_predict_layers;
  const auto N = static_cast<int64_t>(tokens.size());
  if (N < 2) fail("the held-out text is empty");
  MINKE_CHECK(S >= 2 && S % 2 == 0, "window of {}", S);
  const auto counts = [&](int64_t token) {
    return token < N && (text.learned.empty() || text.learned[static_cast<size_t>(token)] != 0);
  };
  std::vector<Window> windows = windows_of(N, S);
  std::erase_if(windows, [&](const Window& window) {
    for (int64_t i = window.first; i < S; ++i) {
      if (counts(window.begin + i + 1)) return false;
    }
    return true;
  });
  if (windows.empty()) fail("the held-out text has nothing that is to be predicted");
  windows = spread(std::move(windows), options.max_windows);

  const auto D = static_cast<size_t>(depths) + 1;
  const int64_t row_tokens = S + 1 + depths;
  Evaluation out;
  out.depth.resize(D);
  int64_t agreed = 0, compared = 0;
  const auto is_full = [&](const Window& window) { return window.begin + row_tokens <= N; };
  clear_router_counts(model);
  for (size_t w = 0, count = 0; w < windows.size(); w += count) {
    // What lies past the end of the text must not be counted as experts' load: the last windows are
    // computed apart.
    const bool full = is_full(windows[w]);
    for (count = 1; w + count < windows.size() && std::cmp_less(count, options.sequences) &&
                    is_full(windows[w + count]) == full;) {
      ++count;
    }
    const auto B = static_cast<int64_t>(count);
    // Past the end of the text lies another document, whose tokens nobody counts.
    std::vector<int32_t> rows(static_cast<size_t>(B * row_tokens), 0), documents(rows.size(), 1);
    for (int64_t b = 0; b < B; ++b) {
      const int64_t begin = windows[w + static_cast<size_t>(b)].begin;
      for (int64_t i = 0; i < std::min(row_tokens, N - begin); ++i) {
        rows[static_cast<size_t>(b * row_tokens + i)] = tokens[static_cast<size_t>(begin + i)];
        documents[static_cast<size_t>(b * row_tokens + i)] = 0;
      }
    }
    const model::Batch batch{B, S, row_tokens, rows, documents, false};
    std::vector<std::vector<float>> loss(D, std::vector<float>(static_cast<size_t>(B * S)));
    std::vector<std::vector<int32_t>> likely(D, std::vector<int32_t>(static_cast<size_t>(B * S)));
    const std::vector<std::span<float>> loss_spans(loss.begin(), loss.end());
    const std::vector<std::span<int32_t>> likely_spans(likely.begin(), likely.end());
    model::Transformer::Options how;
    how.counting = full;
    model.evaluate(batch, how, loss_spans, likely_spans, pass);

    for (int64_t b = 0; b < B; ++b) {
      const Window& window = windows[w + static_cast<size_t>(b)];
      for (int64_t i = window.first; i < S; ++i) {
        const auto at = static_cast<size_t>(b * S + i);
        for (int64_t k = 0; k <= depths; ++k) {
          if (!counts(window.begin + i + k + 1)) continue;
          EvalDepth& depth = out.depth[static_cast<size_t>(k)];
          depth.loss += static_cast<double>(loss[static_cast<size_t>(k)][at]);
          ++depth.tokens;
        }
        const int64_t target = window.begin + i + 1;
        if (counts(target)) {
          const int32_t token = tokens[static_cast<size_t>(target)];
          out.bytes += bytes_of(token);
          if (options.on_token) options.on_token(target, token, loss[0][at]);
        }
        if (depths > 0 && i + 1 < S && counts(target + 1)) {
          ++compared;
          agreed += static_cast<int64_t>(likely[1][at] == likely[0][at + 1]);
        }
      }
    }
    if (options.on_progress) {
      options.on_progress(static_cast<double>(w + static_cast<size_t>(B)) /
                          static_cast<double>(windows.size()));
    }
  }
  out.routers = router_loads(model);
  out.tokens = out.depth[0].tokens;
  out.bits_per_byte =
      out.depth[0].loss / std::numbers::ln2 / static_cast<double>(std::max<int64_t>(out.bytes, 1));
  for (EvalDepth& depth : out.depth) {
    if (depth.tokens > 0) depth.loss /= static_cast<double>(depth.tokens);
  }
  if (compared > 0) out.acceptance = static_cast<double>(agreed) / static_cast<double>(compared);
  return out;
}

}  // namespace minke::train

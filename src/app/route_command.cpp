#include "app/route_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "app/choices.h"
#include "app/text_options.h"
#include "base/error.h"
#include "base/file.h"
#include "study/pages.h"
#include "study/route.h"
#include "train/source.h"
#include "train/trainer.h"

namespace minke::app {
namespace {

constexpr const char* kRouteFooter =
    R"(A line a token and a column a layer: the experts it goes to, the largest weight first. With --layer, a line for each
choice of those layers: the groups that experts may come from, then each expert with its score, the router's bias (together
they decide) and its weight, and behind | the best that was not taken.

Examples:
  minke route runs/first --text "It is a truth universally acknowledged"
  minke route runs/first --text - --layer 3 < novel.txt
  minke route runs/first --text "She had been" --html route.html)";

struct RouteArguments {
  model::Precision precision = model::Precision::kBF16;
  std::string model, text, html, color = "auto";
  std::vector<int64_t> layers;
  infer::LoadOptions load;
};

// Expert numbers in colours of their own: neighbours in number are apart in hue.
class Paint {
 public:
  explicit Paint(const std::string& when)
      : on_(when == "always" || (when == "auto" && ::isatty(STDOUT_FILENO) == 1 &&
                                 std::getenv("NO_COLOR") == nullptr)) {}

  std::string expert(int32_t e, const std::string& text) const {
    if (!on_) return text;
    const double hue = std::fmod(e * 0.61803398875, 1.0) * 6;
    // HSL to RGB, saturation 0.65, lightness 0.68.
    const auto channel = [&](double shift) {
      const double h = std::fmod(hue + shift, 6.0);
      const double ramp = std::clamp(std::abs(h - 3) - 1, 0.0, 1.0);
      return static_cast<int>(std::lround(255 * (0.68 + 0.65 * 0.32 * (2 * ramp - 1))));
    };
    return fmt::format("\x1b[38;2;{};{};{}m{}\x1b[0m", channel(0), channel(4), channel(2), text);
  }
  std::string faint(const std::string& text) const {
    return on_ ? "\x1b[2m" + text + "\x1b[0m" : text;
  }

 private:
  bool on_;
};

constexpr size_t kTokenWidth = 16;

// A token on a line, padded: quoted, with what cannot be printed escaped.
std::string shown(const std::string& text) {
  const bool whole = train::find_invalid_utf8(text) == std::string::npos;
  std::vector<std::string> characters;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      characters.emplace_back("\\n");
    } else if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !whole)) {
      characters.push_back(fmt::format("\\x{:02x}", byte));
    } else if ((byte & 0xc0) == 0x80) {
      characters.back() += c;
    } else {
      characters.emplace_back(1, c);
    }
  }
  const bool cut = characters.size() > kTokenWidth - 2;
  if (cut) characters.resize(kTokenWidth - 3);
  std::string out = "\"";
  size_t width = 2;
  for (const std::string& character : characters) {
    out += character;
    width += character[0] == '\\' ? character.size() : 1;
  }
  out += cut ? "…\"" : "\"";
  return out + std::string(width < kTokenWidth + 2 ? kTokenWidth + 2 - width : 1, ' ');
}

int digits(int64_t experts) { return static_cast<int>(std::to_string(experts - 1).size()); }

void print_overview(const study::TextRoutes& routes, const Paint& paint) {
  std::string head(kTokenWidth + 2, ' ');
  for (const study::LayerRoutes& layer : routes.layers) {
    const auto width = static_cast<size_t>(layer.how.chosen * (digits(layer.how.experts) + 1)) + 2;
    head +=
        fmt::format("{:<{}}", fmt::format("layer {}", layer.layer), std::max<size_t>(width, 10));
  }
  fmt::print("{}\n", head);
  for (size_t t = 0; t < routes.texts.size(); ++t) {
    std::string line = shown(routes.texts[t]);
    for (const study::LayerRoutes& layer : routes.layers) {
      const int width = digits(layer.how.experts);
      for (const study::Choice& choice : layer.tokens[t].chosen) {
        line += paint.expert(choice.expert, fmt::format("{:>{}} ", choice.expert, width));
      }
      const auto taken = layer.how.chosen * (width + 1);
      line += std::string(static_cast<size_t>(std::max<int64_t>(10 - taken, 2)), ' ');
    }
    fmt::print("{}\n", line);
  }
}

void print_layer(const study::TextRoutes& routes, const study::LayerRoutes& layer,
                 const Paint& paint) {
  const ops::Routing& how = layer.how;
  fmt::print(
      "\nlayer {}: {} of {} experts{}\n", layer.layer, how.chosen, how.experts,
      how.groups == 1 ? "" : fmt::format(", from {} of {} groups", how.chosen_groups, how.groups));
  const auto score = [&](const study::Choice& choice) {
    const std::string bias =
        layer.bias.empty() ? "" : fmt::format("{:+.3f}", layer.bias_of(choice.expert));
    return fmt::format("{:>{}} {:.3f}{}", choice.expert, digits(how.experts), choice.score, bias);
  };
  for (size_t t = 0; t < routes.texts.size(); ++t) {
    const study::TokenRoute& token = layer.tokens[t];
    std::string line = shown(routes.texts[t]);
    if (!token.groups.empty()) line += fmt::format("{}  ", fmt::join(token.groups, " "));
    for (const study::Choice& choice : token.chosen) {
      line +=
          paint.expert(choice.expert, fmt::format("{} x{:.3f}  ", score(choice), choice.weight));
    }
    if (token.has_next) line += paint.faint("| " + score(token.next));
    fmt::print("{}\n", line);
  }
}

void print_load(const study::TextRoutes& routes, const Paint& paint) {
  fmt::print("\nload: tokens of each expert, the most first\n");
  for (const study::LayerRoutes& layer : routes.layers) {
    const train::RouterLoad load{layer.layer, layer.counts(), {}};
    std::vector<int32_t> order(load.counts.size());
    for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
    std::ranges::stable_sort(order, std::greater(),
                             [&](int32_t e) { return load.counts[static_cast<size_t>(e)]; });
    constexpr size_t kShown = 8;
    std::string line = fmt::format("  layer {:<3} MaxVio {:.2f}, {} without a token:", layer.layer,
                                   load.max_vio(), load.dead());
    for (size_t i = 0; i < std::min(kShown, order.size()); ++i) {
      line +=
          "  " + paint.expert(order[i], fmt::format("{}: {}", order[i],
                                                    load.counts[static_cast<size_t>(order[i])]));
    }
    fmt::print("{}\n", line);
  }
}

void run_route(const RouteArguments& arguments) {
  study::TextForward forward(arguments.model, arguments.precision,
                             arguments.text == "-" ? read_standard_input() : arguments.text,
                             arguments.load);
  study::TextRoutes routes = study::routes_of(forward);
  const Paint paint(arguments.color);
  if (!arguments.layers.empty()) {
    for (const int64_t wanted : arguments.layers) {
      const auto found = std::ranges::find(routes.layers, wanted, &study::LayerRoutes::layer);
      if (found == routes.layers.end()) {
        fail("--layer {}: layers {} to {} have experts", wanted, routes.layers.front().layer,
             routes.layers.back().layer);
      }
    }
    std::erase_if(routes.layers, [&](const study::LayerRoutes& layer) {
      return std::ranges::count(arguments.layers, layer.layer) == 0;
    });
  }
  if (!arguments.html.empty()) {
    write_file_atomic(arguments.html, study::page("route", study::json_of(routes)));
  }
  fmt::print("{}: {} tokens\n", routes.model, routes.ids.size());
  if (arguments.layers.empty()) {
    print_overview(routes, paint);
  } else {
    for (const study::LayerRoutes& layer : routes.layers) print_layer(routes, layer, paint);
  }
  print_load(routes, paint);
}

}  // namespace

void add_route_command(CLI::App& app) {
  const auto arguments = std::make_shared<RouteArguments>();
  CLI::App* command = app.add_subcommand("route", "Which experts each token of a text goes to");
  command->footer(kRouteFooter);
  command->add_option("model", arguments->model, "A model's folder, or a run's")->required();
  command->add_option("--text", arguments->text, "The text; -: standard input")->required();
  command->add_option("--layer", arguments->layers, "These layers alone, with scores and biases");
  command->add_option("--html", arguments->html,
                      "Also write a page to look at: the text in colours");
  command->add_option("--color", arguments->color, "auto: where standard output is a terminal")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  add_precision(*command, arguments->precision);
  add_load_options(*command, arguments->load);
  command->callback([arguments] { run_route(*arguments); });
}

}  // namespace minke::app

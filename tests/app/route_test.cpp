// minke route: what it tells is what the router would choose from the scores it tells.
#include "app/browser.h"
#include "app/small_run.h"

namespace minke {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json data_of(const std::string& page) {
  const std::string mark = "type=\"application/json\">";
  const size_t begin = page.find(mark) + mark.size();
  return json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

// From scores and biases alone, by the rule of V3: the groups whose two best biased scores have the
// largest sum, the best experts of these; weights are the scores' shares times
// routed_scaling_factor.
void expect_rule_of_v3(const json& layer, double scale) {
  const auto bias = layer["bias"].get<std::vector<double>>();
  const auto size = layer["experts"].get<size_t>() / layer["groups"].get<size_t>();
  for (const json& token : layer["tokens"]) {
    const auto scores = token["scores"].get<std::vector<double>>();
    std::vector<std::pair<double, int>> groups;
    for (size_t begin = 0; begin < scores.size(); begin += size) {
      std::vector<double> biased;
      for (size_t e = begin; e < begin + size; ++e) biased.push_back(scores[e] + bias[e]);
      std::ranges::sort(biased, std::greater());
      groups.emplace_back(-(biased[0] + biased[1]), static_cast<int>(begin / size));
    }
    std::ranges::sort(groups);
    groups.resize(layer["chosen_groups"].get<size_t>());
    std::vector<std::pair<double, int>> experts;
    std::set<int> chosen_groups;
    for (const auto& [sum, g] : groups) {
      chosen_groups.insert(g);
      for (size_t e = static_cast<size_t>(g) * size; e < (static_cast<size_t>(g) + 1) * size; ++e) {
        experts.emplace_back(-(scores[e] + bias[e]), static_cast<int>(e));
      }
    }
    std::ranges::sort(experts);
    experts.resize(layer["chosen"].get<size_t>());
    EXPECT_EQ(token["groups"], json(chosen_groups));
    std::map<int, double> weights;
    double sum = 0;
    for (const auto& [choice, e] : experts) sum += scores[static_cast<size_t>(e)];
    ASSERT_EQ(token["experts"].size(), experts.size());
    for (const auto& [choice, e] : experts) {
      const auto at = std::ranges::find(token["experts"], json(e));
      ASSERT_NE(at, token["experts"].end()) << token["experts"] << " lacks " << e;
      const double weight = token["weights"][static_cast<size_t>(at - token["experts"].begin())];
      // A share is a few roundings of FP32.
      EXPECT_NEAR(weight, scale * scores[static_cast<size_t>(e)] / sum, 1e-6 * scale);
    }
  }
}

TEST(Route, IsTheRuleOfV3) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "30"})));
  const std::string page = runs.path("route.html");
  const std::string text = "Anne spoke of the sea. Mary wrote from Bath.\n";
  const Said said = run_program({"route", runs.path("run"), "--text", text, "--html", page});
  expect_success(said);
  const json data = data_of(read_file(page));
  std::string joined;
  for (const json& token : data["tokens"]) joined += token["text"].get<std::string>();
  EXPECT_THAT(joined, testing::EndsWith(text));
  ASSERT_EQ(data["layers"].size(), 1);
  EXPECT_EQ(data["layers"][0]["layer"], 1);
  EXPECT_EQ(data["layers"][0]["tokens"].size(), data["tokens"].size());
  expect_rule_of_v3(data["layers"][0], 2.5);

  EXPECT_THAT(said.out, testing::AllOf(HasSubstr("layer 1"), HasSubstr("MaxVio"),
                                       testing::Not(HasSubstr("\x1b["))));
  const Said layer = run_program(
      {"route", runs.path("run"), "--text", "-", "--layer", "1", "--color", "always"}, text);
  expect_success(layer);
  const json& first = data["layers"][0]["tokens"][1];
  const int expert = first["experts"][0];
  EXPECT_THAT(layer.out, HasSubstr(fmt::format("{} {:.3f}{:+.3f} x{:.3f}", expert,
                                               first["scores"][expert].get<double>(),
                                               data["layers"][0]["bias"][expert].get<double>(),
                                               first["weights"][0].get<double>())));
  EXPECT_THAT(layer.out, testing::AllOf(HasSubstr("2 of 8 experts, from 2 of 4 groups"),
                                        HasSubstr("\x1b[38;2;"), HasSubstr("\\n\"")));
}

TEST(Route, FaultsAreNamed) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "2"})));
  const std::string run = runs.path("run");
  expect_fault(run_program({"route", run, "--text", ""}), "empty");
  expect_fault(run_program({"route", run, "--text", small_text(1, 40)}), "max_position_embeddings");
  expect_fault(run_program({"route", run, "--text", "Anne", "--layer", "0"}), "--layer 0",
               "1 to 1");
  expect_fault(run_program({"route", runs.path("nowhere"), "--text", "Anne"}), "nowhere");
  expect_fault(run_program({"route", run, "--text", "Anne", "--html", runs.path("no/route.html")}),
               "no/route.html");
}

TEST(RouteSlow, ThePageTellsWhatATokenIsPointedAt) {
  if (Browser::program().empty()) GTEST_SKIP() << "no chromium is installed";
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "5"})));
  const std::string page = runs.path("route.html");
  expect_success(run_program(
      {"route", runs.path("run"), "--text", "Anne spoke </script>\xff of", "--html", page}));
  const json data = data_of(read_file(page));
  Browser browser;
  browser.open("file://" + page);
  browser.wait_for("document.querySelectorAll('.text span').length > 3");
  EXPECT_THAT(browser.run("document.querySelector('.text').innerText").get<std::string>(),
              HasSubstr("</script>"));
  const json middle = browser.run(
      "(() => { const b = document.querySelectorAll('.text span')[2].getBoundingClientRect(); "
      "return [b.left + b.width / 2, b.top + b.height / 2]; })()");
  browser.point_at(middle[0], middle[1]);
  browser.wait_for("document.querySelector('.experts tr.taken')");
  const json taken = browser.run(
      "[...document.querySelectorAll('.experts tr.taken td:first-child')].map(t => "
      "+t.textContent)");
  const auto expected = data["layers"][0]["tokens"][2]["experts"].get<std::set<int>>();
  EXPECT_EQ(taken.get<std::set<int>>(), expected);
  EXPECT_THAT(browser.complaints(), testing::IsEmpty());
}

}  // namespace
}  // namespace minke

// The pages in a real browser: what they draw, tell, and ask for.
#include "app/browser.h"

#include "app/watching.h"

namespace minke {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;

class BrowserSlow : public testing::Test {
 protected:
  void SetUp() override {
    if (Browser::program().empty()) GTEST_SKIP() << "no chromium is installed";
    browser_ = std::make_unique<Browser>();
  }
  Browser& browser() const { return *browser_; }

  // Every figure has a title, axes with numbers, and something drawn.
  void expect_drawn(const std::vector<std::string>& keys) const {
    for (const std::string& key : keys) {
      const json found = browser().run(
          "(() => { const f = document.querySelector('figure[data-key=\"" + key +
          "\"]'); return f && {title: f.querySelector('figcaption').textContent.trim(), "
          "numbers: [...f.querySelectorAll('svg text')].filter(t => "
          "/^-?[0-9]/.test(t.textContent)).length, "
          "drawn: f.querySelectorAll('svg path, svg image, svg circle').length}; })()");
      ASSERT_TRUE(found.is_object()) << key << " is not there";
      EXPECT_NE(found["title"], "") << key;
      EXPECT_GE(found["numbers"], 4) << key;
      EXPECT_GE(found["drawn"], 1) << key;
    }
  }
  // Points at the middle of a figure's drawing and returns what is then told.
  std::string told_by(const std::string& key) const {
    const std::string figure = "document.querySelector('figure[data-key=\"" + key + "\"]')";
    const json middle = browser().run("(() => { const s = " + figure +
                                      ".querySelector('svg'); s.scrollIntoView({block: 'center'}); "
                                      "const b = s.getBoundingClientRect(); "
                                      "return [b.left + b.width / 2, b.top + b.height / 2]; })()");
    browser().point_at(middle[0], middle[1]);
    browser().wait_for(figure + ".querySelector('.tip').style.display === 'block'");
    return browser().run(figure + ".querySelector('.tip').innerText");
  }
  void expect_no_other_site() const {
    EXPECT_EQ(browser().run("performance.getEntriesByType('resource').filter(e => "
                            "!e.name.startsWith(location.origin + '/data/') && "
                            "e.name !== location.origin + '/runs' && "
                            "!e.name.startsWith('data:')).map(e => e.name)"),
              json::array());
    EXPECT_THAT(browser().complaints(), IsEmpty());
  }

 private:
  std::unique_ptr<Browser> browser_;
};

const std::vector<std::string> kFigures = {
    "loss",   "held-out",         "gradient",       "clip",  "rate",   "speed",
    "mfu",    "max-vio",          "eval-max-vio",   "dead",  "load 1", "load 2",
    "bias 1", "module-gradients", "module-updates", "phases"};

TEST_F(BrowserSlow, WatchDrawsTellsAndFollows) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("one", {"--steps", "12", "--eval-every", "3"})));
  expect_success(run_program(
      runs.flags("two", {"--steps", "12", "--eval-every", "3", "--lr", "0.02", "--stop-at", "6"})));
  const Watching watching({runs.path("one"), runs.path("two")});
  browser().open(watching.url());
  browser().wait_for("document.body?.dataset.polls > 0");
  expect_drawn(kFigures);
  EXPECT_THAT(browser().run("document.querySelector('.runs').innerText").get<std::string>(),
              testing::AllOf(HasSubstr("one"), HasSubstr("two"), HasSubstr("finished")));

  EXPECT_EQ(browser().run("document.getElementById('trouble').offsetHeight"), 0);

  EXPECT_THAT(told_by("loss"),
              testing::AllOf(HasSubstr("step 6"), HasSubstr("one: "), HasSubstr("two: ")));
  EXPECT_THAT(told_by("load 1"), testing::AllOf(HasSubstr("expert"), HasSubstr("bias")));
  EXPECT_THAT(told_by("bias 1"), HasSubstr("expert"));
  EXPECT_THAT(told_by("phases"), HasSubstr("backward"));

  // A click on a name hides its curve.
  const std::string curves = "document.querySelectorAll('figure[data-key=speed] svg path').length";
  const int before = browser().run(curves);
  browser().run("document.querySelector('figure[data-key=speed] .legend button').click()");
  EXPECT_LT(browser().run(curves), before);

  // Another x axis, without smoothing.
  browser().run(
      "(() => { const a = document.getElementById('axis'); a.value = 'tokens'; "
      "a.dispatchEvent(new Event('input')); })()");
  EXPECT_THAT(told_by("loss"), HasSubstr("tokens"));

  // What a run goes on to write is drawn, and the reader's choice of run stays.
  browser().run("document.querySelectorAll('.runs button')[1].click()");
  const std::string facts = "document.querySelector('.facts').innerText";
  EXPECT_THAT(browser().run(facts).get<std::string>(), HasSubstr("6\nstep of 12"));
  expect_success(run_program({"train", "--resume", runs.path("two"), "--no-report"}));
  browser().wait_for(facts + ".includes('12\\nstep of 12')");
  EXPECT_THAT(browser().run("document.querySelector('blockquote').innerText").get<std::string>(),
              testing::Not(IsEmpty()));
  expect_drawn(kFigures);

  // Dark where the reader's system is.
  const std::string ground = "getComputedStyle(document.body).backgroundColor";
  const json light = browser().run(ground);
  browser().call("Emulation.setEmulatedMedia",
                 {{"features", {{{"name", "prefers-color-scheme"}, {"value", "dark"}}}}});
  EXPECT_NE(browser().run(ground), light);
  expect_drawn(kFigures);
  expect_no_other_site();
}

TEST_F(BrowserSlow, WatchSaysWhatIsWrong) {
  const SmallRuns runs;
  fs::create_directories(runs.path("run"));
  runs.write("run/manifest.json", "{}");
  {
    const Watching watching({runs.path("run")});
    browser().open(watching.url());
    browser().wait_for("document.body?.dataset.polls > 0");
    const std::string text = "document.body.innerText";
    EXPECT_THAT(browser().run(text).get<std::string>(), HasSubstr("no step yet"));
    runs.write("run/metrics.jsonl", "<b>nonsense\n");
    browser().wait_for(text + ".includes('metrics.jsonl:1')");
  }
  browser().wait_for("document.getElementById('trouble').innerText.includes('trying again')");
}

TEST_F(BrowserSlow, TheReportDrawsTheSame) {
  const SmallRuns runs;
  auto flags = runs.flags("run", {"--steps", "12", "--sample-prompt", "</script><b>"});
  std::erase(flags, "--no-report");
  expect_success(run_program(flags));
  browser().open("file://" + runs.path("run/report.html"));
  browser().wait_for("document.querySelector('[data-section=run]')");
  expect_drawn(kFigures);
  EXPECT_THAT(told_by("loss"), HasSubstr("MTP depth 1: "));
  EXPECT_THAT(browser().run("document.querySelector('blockquote em').innerText").get<std::string>(),
              "</script><b>");
  expect_no_other_site();
}

}  // namespace
}  // namespace minke

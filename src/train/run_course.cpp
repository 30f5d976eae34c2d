#include "train/run_course.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "infer/generation.h"
#include "model/cost.h"
#include "ops/isa.h"
#include "ops/peak.h"

namespace minke::train {
namespace {

using When = Checkpoints::When;

// Windows of held-out text for a look during training; the whole of it is read at the end.
constexpr int64_t kWindowsDuringTraining = 64;
// Events of routers and memory in a run, columns of the pictures that are drawn of them; and of
// norms by module, each of which takes about a fifth of a step's time.
constexpr int64_t kPictures = 200, kNorms = 100;
constexpr int64_t kSampleTokens = 120;
// Spikes one after the other, or rollbacks to one step, after which the run ends: it will not mend.
constexpr int64_t kMostSkipped = 10;
constexpr int64_t kMostRollbacks = 3;

// What the processor can do in the run's operands, measured: the best of a few bursts.
double measured_peak(model::Precision precision) {
  constexpr int64_t kRounds = 1 << 18;
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const auto start = Clock::now();
    const double flops = precision == model::Precision::kF32 ? ops::multiply_f32(kRounds)
                                                             : ops::multiply_bf16(kRounds);
    best = std::max(best, flops / seconds_since(start));
  }
  return best;
}

}  // namespace

bool Run::due(int64_t every, int64_t parts, int64_t step) const {
  if (every > 0) return step % every == 0;
  const int64_t interval = std::max<int64_t>(1, options_.steps / parts);
  return step % interval == 0 && step + interval / 2 <= options_.steps;
}

double Run::flops_per_token() const {
  return model::train_flops_per_token(config_.model, options_.seq,
                                      config_.model.num_nextn_predict_layers)
      .total();
}

model::StepMemory Run::memory() const { return step_memory(config_.model, options_); }

void Run::write_start() {
  const auto counts = model::count_parameters(config_.model);
  metrics_->write(
      {{"event", "start"},
       {"step", trainer_->done()},
       {"steps", options_.steps},
       {"unix_time",
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count()},
       {"seconds", seconds()},
       {"parameters", counts.total.total()},
       {"active_parameters", counts.active.without_embedding()},
       {"flops_per_token", flops_per_token()},
       {"peak_flops", peak_},
       {"threads", thread_count()},
       {"instruction_set", ops::isa_name()},
       {"precision", spelling(options_.precision)}});
}

void Run::write_step(const StepReport& r, const std::vector<ProfileEntry>& profile,
                     double tokens_per_second) {
  clipped_ += r.clipped ? 1 : 0;
  nlohmann::json event = step_event(r, profile);
  event["clip_rate"] = static_cast<double>(clipped_) / static_cast<double>(r.step);
  const int64_t rows = trainer_->schedule().rows(r.step);
  event["tokens"] = rows * options_.seq;
  event["epochs"] = stream_.epochs(rows);
  event["tokens_per_second"] = tokens_per_second;
  event["mfu"] = tokens_per_second * flops_per_token() / peak_;
  event["seconds"] = seconds();
  metrics_->write(event);
  if (!r.modules.empty()) metrics_->write(modules_event(r));
  add_loads(loads_, r.routers);
  if (!due(0, kPictures, r.step)) return;
  metrics_->write(routers_event(r.step, loads_));
  loads_.clear();
  nlohmann::json memory = memory_event(r.step, this->memory(), *trainer_);
  memory["snapshot"] = checkpoints_.copy_bytes();
  metrics_->write(memory);
}

void Run::show(const StepReport& r, double rate, LiveLine& line) const {
  if (!line.due()) return;
  const Schedule& schedule = trainer_->schedule();
  const double left =
      static_cast<double>((schedule.rows() - schedule.rows(r.step)) * options_.seq) / rate;
  std::string text = fmt::format("step {}/{}  loss {:.3f}", r.step, options_.steps, r.loss);
  if (!r.mtp_loss.empty()) text += fmt::format(" (MTP {:.3f})", r.mtp_loss[0]);
  if (bits_per_byte_ > 0) text += fmt::format("  valid {:.3f} bits/byte", bits_per_byte_);
  text += fmt::format("  {} tok/s  {:.0f}% of peak  MaxVio {:.2f}  {} left", format_count(rate),
                      100 * rate * flops_per_token() / peak_, worst_max_vio(r.routers),
                      format_duration(left));
  line.show(text);
}

Evaluation Run::evaluate_weights(bool whole, LiveLine& line) {
  EvalOptions how;
  how.window = options_.seq / 2 * 2;
  how.sequences = std::min(how.sequences, micro_batch(options_));
  how.max_windows = whole ? 0 : kWindowsDuringTraining;
  how.on_progress = [&](double share) {
    if (whole) stop_if_interrupted();
    line.show(fmt::format("evaluating: {:.0f}%", 100 * share));
  };
  return evaluate(model_, text_.held_out(), text_.encoder().bytes_of, how, trainer_->pass());
}

void Run::evaluate_now(bool whole, LiveLine& line) {
  if (text_.held_out().tokens.size() < 2) return;
  const auto start = Clock::now();
  const Evaluation result = evaluate_weights(whole, line);
  bits_per_byte_ = result.bits_per_byte;
  nlohmann::json event = eval_event(trainer_->done(), result);
  std::string text =
      fmt::format("step {}: held-out text{}{}: {:.4f} bits a byte, loss {:.4f}", trainer_->done(),
                  text_.held_out().has_conversations() ? ", what the assistant says" : "",
                  whole ? "" : " (a part of it)", result.bits_per_byte, result.depth[0].loss);
  if (result.acceptance >= 0) {
    text += fmt::format(", {:.0f}% of MTP's tokens accepted", 100 * result.acceptance);
  }
  if (trainer_->optimizer().averages().exist() && trainer_->done() > 0) {
    const AveragesInPlace averages(trainer_->optimizer());
    const auto averaged = eval_event(trainer_->done(), evaluate_weights(whole, line));
    for (const char* key : {"loss", "bits_per_byte"}) event["ema"][key] = averaged[key];
    text += fmt::format("; averaged weights: {:.4f}, {:.4f}",
                        averaged["bits_per_byte"].get<double>(), averaged["loss"][0].get<double>());
  }
  event["whole"] = whole;
  event["took"] = seconds_since(start);
  metrics_->write(event);
  line.keep(text);
  if (whole || result.bits_per_byte >= best_) return;
  best_ = result.bits_per_byte;
  if (options_.keep_best) save(When::kMeanwhile, true);
}

void Run::sample_now(LiveLine& line) {
  const auto start = Clock::now();
  model_.prepare_decode();
  std::vector<int32_t> prompt = {text_.bos()};
  const auto given = text_.encode(options_.sample_prompt);
  prompt.insert(prompt.end(), given.begin(), given.end());
  infer::Generator::Options how;
  how.vocabulary = text_.vocabulary();
  how.holes = text_.tokenizer().holes();
  how.end_tokens = {text_.eos()};
  how.context = std::min(config_.model.max_position_embeddings,
                         static_cast<int64_t>(prompt.size()) + kSampleTokens);
  infer::Generator generator(model_, how);
  infer::Sampling sampling;
  sampling.temperature = 0.8;
  sampling.top_p = 0.95;
  sampling.seed = options_.seed;
  const auto answer = generator.generate(
      prompt, sampling, kSampleTokens, [](int32_t) {}, [] { return false; });
  const std::string written = text_.shown(answer.tokens);
  metrics_->write({{"event", "sample"},
                   {"step", trainer_->done()},
                   {"prompt", options_.sample_prompt},
                   {"text", written},
                   {"took", seconds_since(start)}});
  line.keep(fmt::format("step {}: {}{}", trainer_->done(), options_.sample_prompt, written));
}

void Run::save(Checkpoints::When when, bool best) {
  checkpoints_.save(
      trainer_->done(), when,
      [this] {
        return Snapshot(model_, config_, *trainer_, identity_, text_.tokenizer_folder(), carried_);
      },
      best);
}

// Whether training goes on.
bool Run::meet_spike(const StepReport& r, LiveLine& line) {
  const std::string what =
      r.spike.finite
          ? fmt::format("loss {:.3f} (z {:.1f}), gradient {:.3g} (z {:.1f})", r.loss,
                        r.spike.loss_z, r.gradient_norm, r.spike.gradient_z)
          : fmt::format("the {} is not finite", std::isfinite(r.loss) ? "gradient" : "loss");
  line.keep(fmt::format("step {}: a spike: {}; --on-spike {}", r.step, what,
                        spelling(options_.on_spike)));
  bool goes_on = false;
  if (options_.on_spike == OnSpike::kSkip) {
    goes_on = ++skipped_ < kMostSkipped;
  } else if (options_.on_spike == OnSpike::kRollback) {
    goes_on = rollbacks_[checkpoints_.step()]++ < kMostRollbacks;
    if (goes_on) roll_back(r);
  }
  metrics_->write(
      spike_event(r, trainer_->done(), spelling(goes_on ? options_.on_spike : OnSpike::kStop)));
  if (!goes_on) {
    fault_ = fmt::format(
        "step {}: {}, and --on-spike {}; it goes on with: minke train --resume {} --on-spike skip",
        r.step, what, spelling(options_.on_spike), out_.string());
  }
  return goes_on;
}

// To the checkpoint; the text up to the spike, and that of its step, is passed over.
void Run::roll_back(const StepReport& r) {
  checkpoints_.finish();
  const int64_t passed = trainer_->position().rows_passed_over;
  load_weights(out_ / "checkpoint");
  load_state(out_ / "checkpoint", model_, *trainer_, identity_);
  Trainer::Position position = trainer_->position();
  const Schedule& schedule = trainer_->schedule();
  position.rows_passed_over = passed + schedule.rows(r.step) - schedule.rows(position.done);
  trainer_->resume_at(std::move(position));
  const double spent = seconds();
  continue_log();
  seconds_before_ = spent;
  started_ = Clock::now();
  loads_.clear();
}

// False where a signal came first: then it is done when the run goes on.
bool Run::conclude(LiveLine& line) {
  try {
    // By the part that those before were judged by.
    if (options_.keep_best) evaluate_now(false, line);
    evaluate_now(true, line);
  } catch (const Interrupted&) {
    return false;
  }
  sample_now(line);
  return true;
}

RunResult Run::train() {
  peak_ = measured_peak(options_.precision);
  started_ = Clock::now();
  LiveLine line;
  if (options_.on_spike == OnSpike::kRollback) save(When::kMeanwhile);
  double rate = 0;
  const int64_t last =
      options_.stop_at > 0 ? std::min(options_.stop_at, options_.steps) : options_.steps;
  if (trainer_->done() < last) write_start();
  while (trainer_->done() < last && !interrupted()) {
    const auto start = Clock::now();
    start_profile();
    const bool counts_fp8 =
        options_.precision == model::Precision::kFp8 && due(0, kPictures, trainer_->done() + 1);
    if (counts_fp8) ops::start_quantize_counts();
    const StepReport report = trainer_->step(
        due(0, kNorms, trainer_->done() + 1) ? Trainer::Look::kModules : Trainer::Look::kUsual);
    const std::vector<ProfileEntry> profile = finish_profile();
    const std::vector<ops::QuantizeCounts> counts =
        counts_fp8 ? ops::finish_quantize_counts() : std::vector<ops::QuantizeCounts>();
    // Written, or not: a full disk should not be learned of at the end.
    checkpoints_.look();
    if (report.spike.spike) {
      if (!meet_spike(report, line)) break;
      continue;
    }
    skipped_ = 0;
    const double now = static_cast<double>(report.tokens) / seconds_since(start);
    rate = rate == 0 ? now : 0.9 * rate + 0.1 * now;
    write_step(report, profile, now);
    if (!counts.empty()) metrics_->write(fp8_event(report.step, counts));
    show(report, rate, line);
    if (report.step == options_.steps) continue;
    if (due(options_.eval_every, 10, report.step)) evaluate_now(false, line);
    if (due(options_.sample_every, 5, report.step)) sample_now(line);
    const bool keeps = options_.keep_every > 0 && report.step % options_.keep_every == 0;
    if (keeps || due(options_.save_every, 5, report.step)) save(When::kMeanwhile);
  }
  // A run that is left before its first step is saved too: it can be gone on with.
  RunResult result{trainer_->done(), trainer_->done() == options_.steps};
  checkpoints_.finish();
  line.show("saving");
  save(When::kNow);
  if (!fault_.empty()) {
    line.clear();
    fail("{}", fault_);
  }
  if (result.finished && !concluded_) result.finished = conclude(line);
  line.clear();
  if (result.finished) {
    log::info("done: {} steps in {}; the model is in {}", result.steps, format_duration(seconds()),
              (out_ / "checkpoint").string());
  } else {
    log::info("saved after step {} of {}; go on with: minke train --resume {}", result.steps,
              options_.steps, out_.string());
  }
  return result;
}

}  // namespace minke::train

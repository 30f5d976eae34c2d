#include "train/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <future>
#include <limits>
#include <map>
#include <span>
#include <utility>

#include "base/hash.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/profile.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "checkpoint/checksums.h"
#include "checkpoint/json.h"
#include "checkpoint/model_files.h"
#include "infer/generation.h"
#include "model/cost.h"
#include "model/memory.h"
#include "ops/isa.h"
#include "ops/peak.h"
#include "train/context.h"
#include "train/data_stream.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/run_files.h"
#include "train/sizes.h"
#include "train/state.h"

namespace minke::train {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Windows of held-out text for a look during training; the whole of it is read at the end.
constexpr int64_t kWindowsDuringTraining = 64;
// Events of routers and memory in a run, columns of the pictures that are drawn of them; and of
// norms by module, each of which takes about a fifth of a step's time.
constexpr int64_t kPictures = 200, kNorms = 100;
constexpr int64_t kSampleTokens = 120;
// Shares of a run given in minutes that are kept for what is not a step.
constexpr double kShareOfSteps = 0.94, kShareOfTiming = 0.02, kMostSecondsOfTiming = 20;
constexpr size_t kTimingSteps = 6;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
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

// As it is saved, whatever it was read from.
checkpoint::HfConfig saved_as(checkpoint::HfConfig config, const Options& options) {
  config.model.quantization.reset();
  if (options.save_format == "fp8") {
    config.model.quantization = model::Fp8Blocks();
    config.model.quantization->ue8m0 = fp8_recipe_of(options).scales == ScaleFormat::kPowerOfTwo;
  }
  return config;
}

class Run {
 public:
  Run(RunText text, checkpoint::HfConfig config, Options options, fs::path out)
      : text_(std::move(text)),
        config_(saved_as(std::move(config), options)),
        options_(std::move(options)),
        out_(std::move(out)),
        model_(config_.model, precision_of(options_)),
        stream_(text_.store(), text_.train_documents(), options_.seq,
                options_.seq + 1 + config_.model.num_nextn_predict_layers,
                options_.data_seed > 0 ? options_.data_seed : options_.seed,
                Rewriting(options_.fim, options_.split_punctuation, text_.tokenizer())) {
    model_.set_fp8(fp8_recipe_of(options_));
    identity_ = {text_.hash(), text_.tokenizer_hash(), std::string(ops::isa_name())};
  }

  // Prints what the run takes and refuses what cannot fit.
  void check_resources() const;
  void begin();
  void resume();
  RunResult train();

 private:
  void initialize();
  void load_weights(const fs::path& folder);
  void make_trainer(const Options& options);
  void fix_steps();
  void show(const StepReport& report, double rate, LiveLine& line) const;
  Evaluation evaluate_weights(bool whole, LiveLine& line);
  void evaluate_now(bool whole, LiveLine& line);
  void sample_now(LiveLine& line);
  enum class Saving { kMeanwhile, kNow };
  void save(Saving how, bool best = false);
  void finish_save();
  void keep_earlier(int64_t step) const;
  bool meet_spike(const StepReport& report, LiveLine& line);
  void roll_back(const StepReport& report);
  void open_log();
  void continue_log();
  bool due(int64_t every, int64_t parts, int64_t step) const;
  double flops_per_token() const;
  model::StepMemory memory() const;
  void write_start();
  void write_step(const StepReport& report, const std::vector<ProfileEntry>& profile,
                  double tokens_per_second);
  double seconds() const { return seconds_before_ + seconds_since(started_); }

  RunText text_;
  checkpoint::HfConfig config_;
  Options options_;
  fs::path out_;
  model::Transformer model_;
  TokenStream stream_;
  RunIdentity identity_;
  Carried carried_;
  std::unique_ptr<checkpoint::CheckpointFolder> files_;  // in which its tensors lie
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<MetricsLog> metrics_;
  std::vector<RouterLoad> loads_;  // since the last routers event
  double peak_ = 0;                // FLOP/s of the processor
  double seconds_before_ = 0;      // of the run before it was resumed
  double bits_per_byte_ = 0;       // the last evaluation's
  int64_t clipped_ = 0;            // steps
  double best_ = kInfinity;        // of the evaluations during training
  int64_t saved_at_ = -1;          // the step of the checkpoint, or of the one to be
  std::future<double> saving_;     // the seconds that writing it takes
  double save_blocked_ = 0;        // seconds that training waited for it
  uint64_t snapshot_bytes_ = 0;    // what it is written from
  bool said_no_memory_ = false;
  int64_t skipped_ = 0;                   // steps in a row that were spikes
  std::map<int64_t, int64_t> rollbacks_;  // to a step: how often
  std::string fault_;                     // why training ended early
  bool concluded_ = false;  // the whole held-out text was evaluated, after the last step
  Clock::time_point started_ = Clock::now();
};

void Run::check_resources() const {
  const model::StepMemory memory = this->memory();
  const auto bytes = [](size_t n) { return format_bytes(static_cast<double>(n)); };
  // Beside the last checkpoint, which a resumed run has already, the one that replaces it; and
  // those that are kept.
  int64_t checkpoints = (fs::exists(out_ / "checkpoint") ? 1 : 2) + options_.keep_last;
  if (options_.keep_best) ++checkpoints;
  if (options_.keep_every > 0) checkpoints += options_.steps / options_.keep_every;
  const uint64_t disk =
      static_cast<uint64_t>(checkpoints) * state_bytes_on_disk(config_.model, options_);
  log::info(
      "memory: {} (weights {}, gradients {}, moments {}, averages {}, operands {}, activations {}, "
      "workspace {}); disk: {}",
      bytes(memory.total()), bytes(memory.weights), bytes(memory.gradients), bytes(memory.moments),
      bytes(memory.averages), bytes(memory.operands), bytes(memory.activations),
      bytes(memory.workspace), bytes(disk));
  if (memory.total() > free_memory_bytes()) {
    fail(
        "the run needs {} of memory and {} are free; a smaller --micro-batch, --seq or model would "
        "fit",
        bytes(memory.total()), bytes(free_memory_bytes()));
  }
  if (disk > free_disk_bytes(out_)) {
    fail("{}: checkpoints need {} of disk and {} are free", out_.string(), bytes(disk),
         bytes(free_disk_bytes(out_)));
  }
}

void Run::make_trainer(const Options& options) {
  trainer_ = std::make_unique<Trainer>(
      model_, options,
      [this](int64_t index, std::span<int32_t> tokens, std::span<int32_t> documents) {
        stream_.row(index, tokens, documents);
      },
      text_.store().has_conversations()
          ? [this](int64_t index, std::span<uint8_t> learned) { stream_.learned(index, learned); }
          : LearnedSource());
}

// Steps are timed for a small share of the run and forgotten: the run then begins anew with a
// number of steps that is written down.
void Run::fix_steps() {
  Options timing = options_;
  timing.steps = 1'000'000;
  timing.batch_start = 0;  // the batch that most of the run has
  make_trainer(timing);
  std::vector<double> times;
  const auto begin = Clock::now();
  const double long_enough = std::min(options_.minutes * 60 * kShareOfTiming, kMostSecondsOfTiming);
  while (times.empty() ||
         (!interrupted() && (times.size() < kTimingSteps || seconds_since(begin) < long_enough))) {
    const auto start = Clock::now();
    trainer_->step();
    times.push_back(seconds_since(start));
  }
  // The median of the later half: early steps touch memory for the first time, and a processor
  // that was idle is slow for some seconds.
  const auto later = std::span(times).last((times.size() + 1) / 2);
  std::ranges::sort(later);
  const double each = later[later.size() / 2];
  const double rows =
      options_.minutes * 60 * kShareOfSteps / each * static_cast<double>(options_.batch);
  options_.steps = std::max<int64_t>(10, steps_for(options_, rows));
  options_.minutes = 0;
  log::info("{} a step: --steps {} (give that number to repeat this run exactly)",
            format_duration(each), options_.steps);
  trainer_.reset();
}

void Run::initialize() {
  if (options_.init.empty()) {
    model_.initialize(options_.seed);
    model_.for_each_router([](int64_t, model::Router& router) {
      if (router.has_bias()) std::ranges::fill(router.bias_E.span<float>(), 0.0F);
    });
    return;
  }
  load_weights(checkpoint::model_folder(options_.init));
}

void Run::load_weights(const fs::path& folder) {
  using checkpoint::Extra;
  checkpoint::verify_checksums(folder);
  files_ = std::make_unique<checkpoint::CheckpointFolder>(folder);
  carried_.extras = checkpoint::load_weights(model_, *files_, checkpoint::Use::kTraining,
                                             options_.allow_extra ? Extra::kKept : Extra::kRefused);
  if (carried_.extras.empty()) files_.reset();
  carried_.generation = checkpoint::read_generation_config(folder);
}

void Run::begin() {
  initialize();
  if (options_.steps == 0) {
    fix_steps();
    initialize();
  }
  checkpoint::list_extras(carried_.extras, "carried along");
  options_.warmup = std::min(options_.warmup, options_.steps / 5);
  make_trainer(options_);
  write_manifest(out_, options_, config_.model, text_, identity_);
  open_log();
}

// What it holds of later steps than the trainer's is dropped.
void Run::open_log() {
  metrics_ = std::make_unique<MetricsLog>(out_ / "metrics.jsonl", trainer_->done());
  if (options_.tensorboard) metrics_->write_tensorboard(out_ / "tensorboard");
}

void Run::resume() {
  const fs::path folder = out_ / "checkpoint";
  load_weights(folder);
  make_trainer(options_);
  load_state(folder, model_, *trainer_, identity_);
  continue_log();
  log::info("resuming after step {} of {}", trainer_->done(), options_.steps);
}

// After the step that the trainer stands at.
void Run::continue_log() {
  open_log();
  clipped_ = 0;
  best_ = kInfinity;
  for (const auto& event : read_metrics(out_ / "metrics.jsonl")) {
    seconds_before_ = event.value("seconds", seconds_before_);
    bits_per_byte_ = event.value("bits_per_byte", bits_per_byte_);
    clipped_ += event.value("clipped", false) ? 1 : 0;
    concluded_ = concluded_ || event.value("whole", false);
    if (event["event"] == "eval" && !event.value("whole", false)) {
      best_ = std::min(best_, bits_per_byte_);
    }
  }
}

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
       {"precision", options_.precision}});
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
  memory["snapshot"] = saving_.valid() ? snapshot_bytes_ : 0;
  metrics_->write(memory);
}

void Run::show(const StepReport& r, double rate, LiveLine& line) const {
  if (!line.due()) return;
  const Schedule& schedule = trainer_->schedule();
  const double left =
      static_cast<double>((schedule.rows() - schedule.rows(r.step)) * options_.seq) / rate;
  std::string text = fmt::format("step {}/{}  loss {:.3f}", r.step, options_.steps, r.loss);
  if (!r.mtp_loss.empty()) text += fmt::format("  mtp {:.3f}", r.mtp_loss[0]);
  if (bits_per_byte_ > 0) text += fmt::format("  valid {:.3f} bits/byte", bits_per_byte_);
  text += fmt::format("  {} tok/s  {:.0f}% of peak  MaxVio {:.2f}  {} left", format_count(rate),
                      100 * rate * flops_per_token() / peak_, worst_max_vio(r.routers),
                      format_duration(left));
  line.show(text);
}

Evaluation Run::evaluate_weights(bool whole, LiveLine& line) {
  EvalOptions how;
  how.window = options_.seq / 2 * 2;
  how.max_windows = whole ? 0 : kWindowsDuringTraining;
  how.on_progress = [&](double share) {
    line.show(fmt::format("evaluating: {:.0f}%", 100 * share));
  };
  return evaluate(
      model_, text_.held_out().tokens,
      [&](int64_t first, int64_t last) { return text_.held_out_bytes(first, last); }, how,
      trainer_->pass());
}

void Run::evaluate_now(bool whole, LiveLine& line) {
  if (text_.held_out().tokens.size() < 2) return;
  const auto start = Clock::now();
  const Evaluation result = evaluate_weights(whole, line);
  bits_per_byte_ = result.bits_per_byte;
  nlohmann::json event = eval_event(trainer_->done(), result);
  std::string text =
      fmt::format("step {}: held-out text{}: {:.4f} bits a byte, loss {:.4f}", trainer_->done(),
                  whole ? "" : " (a part of it)", result.bits_per_byte, result.depth[0].loss);
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
  if (options_.keep_best) save(Saving::kMeanwhile, true);
}

void Run::sample_now(LiveLine& line) {
  const auto start = Clock::now();
  model_.prepare_decode();
  std::vector<int32_t> prompt = {text_.bos()};
  const auto given = text_.encode(options_.sample_prompt);
  prompt.insert(prompt.end(), given.begin(), given.end());
  infer::Generator::Options how;
  how.vocabulary = text_.vocabulary();
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
  const std::string written = text_.decode(answer.tokens);
  metrics_->write({{"event", "sample"},
                   {"step", trainer_->done()},
                   {"prompt", options_.sample_prompt},
                   {"text", written},
                   {"took", seconds_since(start)}});
  line.keep(fmt::format("step {}: {}{}", trainer_->done(), options_.sample_prompt, written));
}

// The step goes on while a thread writes a copy, where memory has room for one.
void Run::save(Saving how, bool best) {
  if (saved_at_ == trainer_->done()) return;
  finish_save();
  const auto start = Clock::now();
  auto snapshot = std::make_unique<Snapshot>(model_, config_, *trainer_, identity_,
                                             text_.tokenizer_folder(), carried_);
  // The copy is not all that is needed while it is there: files are written through memory.
  if (how == Saving::kMeanwhile && snapshot->bytes() * 5 / 4 > free_memory_bytes()) {
    how = Saving::kNow;
    if (!std::exchange(said_no_memory_, true)) {
      log::info("no memory for a copy of {}: training waits while checkpoints are written",
                format_bytes(static_cast<double>(snapshot->bytes())));
    }
  }
  if (how == Saving::kMeanwhile) snapshot->keep();
  snapshot_bytes_ = how == Saving::kMeanwhile ? snapshot->bytes() : 0;
  saved_at_ = trainer_->done();
  saving_ = std::async(how == Saving::kMeanwhile ? std::launch::async : std::launch::deferred,
                       [this, best, step = saved_at_, snapshot = std::move(snapshot)] {
                         const auto begin = Clock::now();
                         snapshot->write(out_ / "checkpoint");
                         keep_earlier(step);
                         if (best) keep_checkpoint(out_ / "checkpoint", out_ / "best");
                         return seconds_since(begin);
                       });
  save_blocked_ = seconds_since(start);
  if (how == Saving::kNow) finish_save();
}

// Waits for the checkpoint that is being written, if one is. Error: it could not be.
void Run::finish_save() {
  if (!saving_.valid()) return;
  const auto start = Clock::now();
  const double took = saving_.get();
  metrics_->write({{"event", "save"},
                   {"step", saved_at_},
                   {"took", took},
                   {"blocked", save_blocked_ + seconds_since(start)}});
}

// The checkpoint itself is the last of those that are kept; it becomes an earlier one by the next.
void Run::keep_earlier(int64_t step) const {
  if (options_.keep_last == 0 && options_.keep_every == 0) return;
  const fs::path folder = out_ / "checkpoints";
  keep_checkpoint(out_ / "checkpoint", folder / fmt::format("step-{:09}", step));
  std::map<int64_t, fs::path> kept;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-")) kept[std::strtoll(name.c_str() + 5, nullptr, 10)] = entry.path();
  }
  auto left = std::ssize(kept);
  for (const auto& [at, path] : kept) {
    if (left-- <= options_.keep_last + 1) break;
    if (options_.keep_every == 0 || at % options_.keep_every != 0) fs::remove_all(path);
  }
}

// Whether training goes on.
bool Run::meet_spike(const StepReport& r, LiveLine& line) {
  const std::string what =
      r.spike.finite
          ? fmt::format("loss {:.3f} (z {:.1f}), gradient {:.3g} (z {:.1f})", r.loss,
                        r.spike.loss_z, r.gradient_norm, r.spike.gradient_z)
          : fmt::format("the {} is not finite", std::isfinite(r.loss) ? "gradient" : "loss");
  line.keep(fmt::format("step {}: a spike: {}; --on-spike {}", r.step, what, options_.on_spike));
  bool goes_on = false;
  if (options_.on_spike == "skip") {
    goes_on = ++skipped_ < kMostSkipped;
  } else if (options_.on_spike == "rollback") {
    goes_on = rollbacks_[saved_at_]++ < kMostRollbacks;
    if (goes_on) roll_back(r);
  }
  metrics_->write(spike_event(r, trainer_->done(), goes_on ? options_.on_spike : "stop"));
  if (!goes_on) {
    fault_ = fmt::format(
        "step {}: {}, and --on-spike {}; it goes on with: minke train --resume {} --on-spike skip",
        r.step, what, options_.on_spike, out_.string());
  }
  return goes_on;
}

// To the checkpoint; the text up to the spike, and that of its step, is passed over.
void Run::roll_back(const StepReport& r) {
  finish_save();
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

RunResult Run::train() {
  peak_ = measured_peak(precision_of(options_));
  started_ = Clock::now();
  LiveLine line;
  if (fs::exists(out_ / "checkpoint")) saved_at_ = trainer_->done();
  if (options_.on_spike == "rollback") save(Saving::kMeanwhile);
  double rate = 0;
  const int64_t last =
      options_.stop_at > 0 ? std::min(options_.stop_at, options_.steps) : options_.steps;
  if (trainer_->done() < last) write_start();
  while (trainer_->done() < last && !interrupted()) {
    const auto start = Clock::now();
    start_profile();
    const bool counts_fp8 = options_.precision == "fp8" && due(0, kPictures, trainer_->done() + 1);
    if (counts_fp8) ops::start_quantize_counts();
    const StepReport report = trainer_->step(
        due(0, kNorms, trainer_->done() + 1) ? Trainer::Look::kModules : Trainer::Look::kUsual);
    const std::vector<ProfileEntry> profile = finish_profile();
    const std::vector<ops::QuantizeCounts> counts =
        counts_fp8 ? ops::finish_quantize_counts() : std::vector<ops::QuantizeCounts>();
    // Written, or not: a full disk should not be learned of at the end.
    if (saving_.valid() && saving_.wait_for(0s) == std::future_status::ready) finish_save();
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
    if (keeps || due(options_.save_every, 5, report.step)) save(Saving::kMeanwhile);
  }
  // A run that is left before its first step is saved too: it can be gone on with.
  const RunResult result{trainer_->done(), trainer_->done() == options_.steps};
  finish_save();
  line.show("saving");
  save(Saving::kNow);
  if (!fault_.empty()) {
    line.clear();
    fail("{}", fault_);
  }
  if (result.finished && !concluded_) {
    evaluate_now(true, line);
    sample_now(line);
  }
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

// What can be said before any text is read.
checkpoint::HfConfig config_of(const Options& options) {
  checkpoint::HfConfig config =
      !options.init.empty()
          ? checkpoint::read_config(checkpoint::model_folder(options.init) / "config.json")
      : options.model.empty() ? size_config(options.size)
                              : checkpoint::read_config(options.model);
  if (const auto factor = context_factor_of(options)) {
    extend_context(config.model, *factor, trained_length(checkpoint::model_folder(options.init)));
    log::info("context: {} tokens, {} times the {} of the first training",
              config.model.max_position_embeddings, config.model.rope_scaling->factor,
              config.model.rope_scaling->original_max_position_embeddings);
  }
  if (config.model.max_position_embeddings < options.seq) {
    fail("--seq {}: the model's max_position_embeddings is {}", options.seq,
         config.model.max_position_embeddings);
  }
  return config;
}

void take_vocabulary(checkpoint::HfConfig& config, const Options& options, const RunText& text) {
  const std::string& given = options.init.empty() ? options.model : options.init;
  if (given.empty()) config.model.vocab_size = text.vocabulary();
  if (config.model.vocab_size < text.vocabulary()) {
    fail("{}: vocab_size {} is smaller than the tokenizer's {}", given, config.model.vocab_size,
         text.vocabulary());
  }
  config.model.bos_token_id = text.bos();
  // A model that ends its texts with several tokens goes on to.
  if (options.init.empty() || std::ranges::count(config.model.eos_token_id, text.eos()) == 0) {
    config.model.eos_token_id = {text.eos()};
  }
  config.model.check();
}

}  // namespace

RunResult start_run(Options options, const fs::path& out) {
  check(options);
  checkpoint::HfConfig config = config_of(options);
  make_writable_folder(out);
  const FolderLock lock(out);
  if (fs::exists(out / "manifest.json")) {
    fail("{}: holds a run already; continue it with --resume {}, or choose another --out",
         out.string(), out.string());
  }
  if (!options.init.empty() && options.tokenizer.empty()) {
    options.tokenizer = checkpoint::model_folder(options.init);
    if (!fs::exists(fs::path(options.tokenizer) / "tokenizer.json")) {
      fail("{}: holds no tokenizer.json; name its tokenizer with --tokenizer", options.tokenizer);
    }
  }
  RunText text(options, out, RunText::Kind::kNew);
  take_vocabulary(config, options, text);
  Run run(std::move(text), std::move(config), std::move(options), out);
  run.check_resources();
  run.begin();
  return run.train();
}

RunResult resume_run(const Options& options, const std::set<std::string>& given,
                     const fs::path& out) {
  if (!fs::exists(out / "manifest.json")) fail("{}: holds no run to resume", out.string());
  const FolderLock lock(out);
  recover_folder(out / "checkpoint");
  if (!fs::exists(out / "checkpoint" / "config.json")) {
    fail("{}: the run had not saved anything yet; remove the folder and start again", out.string());
  }
  Options all = read_manifest_options(out);
  keep_leave_options(all, options, given);
  check(all);
  RunText text(all, out, RunText::Kind::kResumed);
  auto config = checkpoint::read_config(out / "checkpoint" / "config.json");
  Run run(std::move(text), std::move(config), std::move(all), out);
  run.check_resources();
  run.resume();
  return run.train();
}

}  // namespace minke::train

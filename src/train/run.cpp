#include "train/run.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/checksums.h"
#include "model/memory.h"
#include "ops/isa.h"
#include "train/context.h"
#include "train/run_course.h"
#include "train/sizes.h"

namespace minke::train {
namespace {

// Shares of a run given in minutes that are kept for what is not a step.
constexpr double kShareOfSteps = 0.94, kShareOfTiming = 0.02, kMostSecondsOfTiming = 20;
constexpr size_t kTimingSteps = 2;
constexpr int64_t kFewestSteps = 10;

// As it is saved, whatever it was read from.
checkpoint::HfConfig saved_as(checkpoint::HfConfig config, const Options& options) {
  config.model.quantization.reset();
  if (options.save_format == SaveFormat::kFp8) {
    config.model.quantization = model::Fp8Blocks();
    config.model.quantization->ue8m0 = options.fp8_scales == ScaleFormat::kPowerOfTwo;
  }
  return config;
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

Run::Run(RunText text, checkpoint::HfConfig config, Options options, fs::path out)
    : text_(std::move(text)),
      config_(saved_as(std::move(config), options)),
      options_(std::move(options)),
      out_(std::move(out)),
      model_(config_.model, options_.precision),
      stream_(text_.store(), text_.train_documents(), options_.seq,
              options_.seq + 1 + config_.model.num_nextn_predict_layers,
              options_.data_seed > 0 ? options_.data_seed : options_.seed,
              Rewriting(options_.fim, options_.split_punctuation, text_.tokenizer())),
      checkpoints_(options_, out_, [this](const Checkpoints::Written& written) {
        metrics_->write({{"event", "save"},
                         {"step", written.step},
                         {"took", written.took},
                         {"blocked", written.blocked}});
      }) {
  model_.set_fp8(fp8_recipe_of(options_));
  identity_ = {text_.hash(), text_.tokenizer_hash(), std::string(ops::isa_name())};
}

void Run::check_resources() const {
  const model::StepMemory memory = this->memory();
  const auto bytes = [](size_t n) { return format_bytes(static_cast<double>(n)); };
  // Beside the last checkpoint, which a resumed run has already, the one that replaces it; and
  // those that are kept, of which it has some.
  int64_t kept = options_.keep_last;
  if (options_.keep_every > 0) kept += options_.steps / options_.keep_every;
  if (const fs::path earlier = out_ / "checkpoints"; fs::exists(earlier)) {
    kept -= std::min<int64_t>(
        kept, std::distance(fs::directory_iterator(earlier), fs::directory_iterator()));
  }
  const bool resumes = fs::exists(out_ / "checkpoint");
  const int64_t checkpoints = (resumes ? 1 : 2) + kept + (options_.keep_best ? 1 : 0);
  const uint64_t disk =
      static_cast<uint64_t>(checkpoints) * state_bytes_on_disk(config_.model, options_);
  const uint64_t needed = memory.total() + stream_.layout_bytes();
  log::info(
      "memory: {} (weights {}, gradients {}, moments {}, averages {}, operands {}, activations {}, "
      "workspace {}, order of the text {}); disk: {}",
      bytes(needed), bytes(memory.weights), bytes(memory.gradients), bytes(memory.moments),
      bytes(memory.averages), bytes(memory.operands), bytes(memory.activations),
      bytes(memory.workspace), bytes(stream_.layout_bytes()), bytes(disk));
  if (needed > free_memory_bytes()) {
    std::string advice;
    if (options_.recompute != model::Recompute::kBlock) {
      Options least = options_;
      least.recompute = model::Recompute::kBlock;
      advice =
          fmt::format("; it needs {} with --recompute block{}",
                      bytes(needed - memory.total() + step_memory(config_.model, least).total()),
                      resumes ? ", which may change when a run goes on" : "");
    }
    if (!resumes) {
      advice += "; less with a smaller --micro-batch, --seq or model, or --moments bf16";
    }
    fail("the run needs {} of memory and {} are free now{}", bytes(needed),
         bytes(free_memory_bytes()), advice);
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
    times.push_back(seconds_of([&] { trainer_->step(); }));
  }
  // The median of the later half: early steps touch memory for the first time, and a processor
  // that was idle is slow for some seconds.
  const auto later = std::span(times).last((times.size() + 1) / 2);
  std::ranges::sort(later);
  const double each = later[later.size() / 2];
  const double rows =
      options_.minutes * 60 * kShareOfSteps / each * static_cast<double>(options_.batch);
  options_.steps = steps_for(options_, rows);
  if (options_.steps < kFewestSteps) {
    options_.steps = kFewestSteps;
    log::warn("--minutes {}: {} steps are the fewest that a run has, and take {}", options_.minutes,
              kFewestSteps, format_duration(each * kFewestSteps));
  }
  options_.minutes = 0;
  if (const int64_t longest = longest_warmup(options_); options_.warmup > longest) {
    log::info("--warmup {}: more than a fifth of the steps that these minutes are; --warmup {}",
              options_.warmup, longest);
    options_.warmup = longest;
  }
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
  load_weights(checkpoint::model_folder(options_.init),
               options_.init_ema ? infer::WeightsOf::kAverage : infer::WeightsOf::kModel);
}

// What is carried along lies beside the model's own weights.
void Run::load_weights(const fs::path& folder, infer::WeightsOf weights) {
  using checkpoint::Extra;
  const Extra extra = options_.allow_extra ? Extra::kKept : Extra::kRefused;
  checkpoint::verify_checksums(folder);
  const checkpoint::CheckpointFolder files(folder, infer::stem_of(weights, folder));
  checkpoint::load_weights(model_, files, checkpoint::Use::kTraining, extra);
  files_ = std::make_unique<checkpoint::CheckpointFolder>(folder);
  carried_.extras = checkpoint::extra_tensors(model_, *files_, extra);
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
  if (options_.warmup > options_.steps) {
    log::warn("--warmup {}: longer than the {} steps of the run, which never reaches --lr",
              options_.warmup, options_.steps);
  }
  make_trainer(options_);
  const int64_t rows = trainer_->schedule().rows();
  log::info("{} steps of {} tokens in all: the text {:.3g} times", options_.steps,
            format_count(static_cast<double>(rows * options_.seq)), stream_.epochs(rows));
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
  checkpoints_.found(trainer_->done());
  continue_log();
  log::info("resuming after step {} of {}{}", trainer_->done(), options_.steps,
            concluded_ ? ": nothing is left to do" : "");
}

// After the step that the trainer stands at.
void Run::continue_log() {
  open_log();
  clipped_ = 0;
  best_ = std::numeric_limits<double>::infinity();
  read_metrics(out_ / "metrics.jsonl", [&](const nlohmann::json& event) {
    seconds_before_ = event.value("seconds", seconds_before_);
    bits_per_byte_ = event.value("bits_per_byte", bits_per_byte_);
    clipped_ += event.value("clipped", false) ? 1 : 0;
    concluded_ = concluded_ || event.value("whole", false);
    if (event["event"] == "eval" && !event.value("whole", false)) {
      best_ = std::min(best_, bits_per_byte_);
    }
  });
}

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
    if (!text::has_tokenizer(options.tokenizer)) {
      fail("{}: holds no tokenizer.json or tiktoken.model; name its tokenizer with --tokenizer",
           options.tokenizer);
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
  if (!fs::exists(out / "manifest.json")) {
    const bool checkpoint = fs::exists(out / "trainer_state.json");
    fail("{}: holds no run to resume{}", out.string(),
         checkpoint ? ", it is a checkpoint: copy it in place of its run's checkpoint/, and resume "
                      "the run"
                    : "");
  }
  const FolderLock lock(out);
  recover_folders_in(out);
  recover_folders_in(out / "checkpoints");
  if (!fs::exists(out / "checkpoint" / "config.json")) {
    fail("{}: the run had not saved anything yet; remove the folder and start again", out.string());
  }
  Options all = read_manifest_options(out);
  take_given(all, options, given);
  check(all);
  check_given(all, given);
  RunText text(all, out, RunText::Kind::kResumed);
  auto config = checkpoint::read_config(out / "checkpoint" / "config.json");
  Run run(std::move(text), std::move(config), std::move(all), out);
  run.check_resources();
  run.resume();
  return run.train();
}

}  // namespace minke::train

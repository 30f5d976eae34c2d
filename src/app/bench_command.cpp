#include "app/bench_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/choices.h"
#include "app/text_options.h"
#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "ops/isa.h"
#include "study/bench.h"
#include "study/bench_decode.h"
#include "study/bench_draft.h"
#include "study/bench_tokenizer.h"
#include "study/bench_train.h"
#include "study/synthetic_model.h"
#include "train/sizes.h"

namespace minke::app {
namespace {

constexpr const char* kBenchFooter =
    R"(Shapes of products are tokens x outputs x inputs. A share is the speed over a peak measured in the
same moment: the processor's multiply-adds in that format, or reading and writing as many bytes.
Neighbours change both, so look at shares, and repeat.

Examples:
  minke bench kernels
  minke bench kernels --only attention --json)";

constexpr const char* kBenchTrainFooter =
    R"(MFU is the model's FLOPs (6 for each active parameter with the head and without the embedding, and
causal attention; nothing for recomputation) over the multiply-adds that the processor did in the
same moment. Weights and tokens are random.

Examples:
  minke bench train --size small --batch 4 --seq 512
  minke bench train --model config.json --batch 8 --seq 256 --threads 1)";

constexpr const char* kBenchDecodeFooter =
    R"(Shares are of the processor's multiply-adds in that format, and of a read of as many bytes as a
token's weights and latents take, both measured in the same moment. Prefill is of all rows in every
layer, as of the inner layers of a model; a text is spared those of the last layer that nobody reads,
which is what the line below it shows. Weights that small pages map are read less well: the
system has large ones only while its memory is not in pieces, and keeps a file in those in which it
was first read.

Of a model with an MTP layer it shows what drafts give: a verified row reads experts of its own, so
a width has a ceiling, computed from bytes, and from what the parts of a step take alone. Drafts of
a model stand less beyond the length that it was trained on: --prompt and --text together.

--experts and --head make integers of a random model's weights; without them its config says.

Examples:
  minke bench decode runs/first
  minke bench decode runs/first --prompts held-out.txt --prompt 64 --text 180
  minke bench decode --synthetic moonlight.json --layers 6 --prompt 512 --prefill 512
  minke bench decode --synthetic moonlight.json --layers 6 --experts int8 --head int8)";

void run_kernels(const study::BenchOptions& options, bool json) {
  if (!json) {
    fmt::print("{}\n{:24} {:36} {:>7} {:>9} {:8} {:>6}  {}\n", ops::isa_name(), "op", "shape",
               "threads", "speed", "", "share", "of");
  }
  study::bench_kernels(options, [&](const study::BenchResult& r) {
    if (json) {
      const nlohmann::ordered_json line = {
          {"name", r.name},   {"shape", r.shape},  {"threads", r.threads},
          {"value", r.value}, {"unit", r.unit},    {"share", r.share},
          {"peak", r.peak},   {"of", r.peak_name}, {"isa", ops::isa_name()}};
      print_now(line.dump() + "\n");
    } else {
      print_now(fmt::format("{:24} {:36} {:>7} {:>9.1f} {:8} {:>5.0f}%  {:.0f} {}\n", r.name,
                            r.shape, r.threads, r.value, r.unit, 100 * r.share, r.peak,
                            r.peak_name));
    }
  });
}

// What of a whole goes where, and the rest of it.
void print_ops(const std::vector<ProfileEntry>& ops, double seconds) {
  double all = 0;
  const auto row = [&](const std::string& what, double part) {
    print_now(
        fmt::format("  {:24} {:5.1f}% {:>10.3f} ms\n", what, 100 * part / seconds, 1e3 * part));
  };
  for (const ProfileEntry& op : ops) {
    row(op.name, op.seconds);
    all += op.seconds;
  }
  row("everything else", seconds - all);
}

struct BenchTrainArguments {
  train::Options options;
  int64_t steps = 10;
  bool json = false;
};

void run_train(const BenchTrainArguments& arguments) {
  const train::Options& o = arguments.options;
  const checkpoint::HfConfig config =
      o.model.empty() ? train::size_config(o.size) : checkpoint::read_config(o.model);
  LiveLine line;
  const study::TrainBench result =
      study::bench_train(config.model, o, arguments.steps, [&](int64_t step) {
        if (line.due()) line.show(fmt::format("step {} of {}", step, arguments.steps));
      });
  line.clear();
  const std::string name = o.model.empty() ? o.size : o.model;
  const std::string shape = fmt::format("{}x{} {}", o.batch, o.seq, spelling(o.precision));
  double all = 0;
  for (const ProfileEntry& op : result.ops) all += op.seconds;
  const double timed = std::max(all, result.seconds * static_cast<double>(arguments.steps));
  if (arguments.json) {
    nlohmann::ordered_json ops;
    for (const ProfileEntry& op : result.ops) ops[op.name] = op.seconds / timed;
    const nlohmann::ordered_json object = {{"name", name},
                                           {"shape", shape},
                                           {"threads", thread_count()},
                                           {"value", result.tokens_per_second},
                                           {"unit", "tokens/s"},
                                           {"share", result.mfu},
                                           {"flops", result.flops},
                                           {"peak", result.peak},
                                           {"isa", ops::isa_name()},
                                           {"ops", ops}};
    print_now(object.dump() + "\n");
    return;
  }
  print_now(fmt::format(
      "{}, {} tokens a step as {}, {} threads, {}\n"
      "{:.0f} tokens/s  {:.1f} model GFLOP/s  MFU {:.1f}% of a peak of {:.0f} GFLOP/s  {} a step\n"
      "worst MaxVio {:.2f}\n",
      name, result.tokens, shape, thread_count(), ops::isa_name(), result.tokens_per_second,
      result.flops / 1e9, 100 * result.mfu, result.peak / 1e9, format_duration(result.seconds),
      result.max_vio));
  std::vector<ProfileEntry> ops = result.ops;
  const auto steps = static_cast<double>(arguments.steps);
  for (ProfileEntry& op : ops) op.seconds /= steps;
  print_ops(ops, timed / steps);
}

struct DecodeArguments {
  std::string model, synthetic, keep, text_file;
  model::Precision precision = model::Precision::kBF16;
  IntegerOptions integers;
  int64_t layers = 0, dense = -1;
  int64_t prompt = 256, text = 64, prefill_rows = 64;
  double temperature = 0;
  bool json = false;
};

// Of a random model: its first layers without MTP's, where not all are asked for.
checkpoint::HfConfig synthetic_config(const DecodeArguments& arguments) {
  checkpoint::HfConfig config = checkpoint::read_config(arguments.synthetic);
  if (arguments.layers > 0) {
    config.model.num_hidden_layers = arguments.layers;
    config.model.num_nextn_predict_layers = 0;
  }
  int64_t& dense = config.model.first_k_dense_replace;
  if (arguments.dense >= 0) dense = arguments.dense;
  dense = std::min(dense, config.model.num_hidden_layers);
  if (!arguments.integers.experts.empty() || !arguments.integers.head.empty()) {
    if (!config.model.quantization) config.model.quantization.emplace();
    apply(arguments.integers, *config.model.quantization);
  }
  config.model.check();
  return config;
}

std::string name_of_width(int64_t width) {
  return width == infer::Generator::kAutoDraft ? "auto" : std::to_string(width);
}

std::string milliseconds(double seconds) { return fmt::format("{:.3f} ms", 1e3 * seconds); }

void print_drafts(const study::DraftBench& bench, double read, bool json) {
  if (json) {
    for (const study::DraftWidthBench& b : bench.widths) {
      const nlohmann::ordered_json line = {{"name", "draft"},
                                           {"shape", name_of_width(b.width)},
                                           {"threads", thread_count()},
                                           {"value", b.gain},
                                           {"unit", "x plain"},
                                           {"tokens_a_step", b.tokens},
                                           {"accepted", b.accepted},
                                           {"ceiling_bytes", b.ceiling_bytes},
                                           {"ceiling_seconds", b.ceiling_seconds},
                                           {"isa", ops::isa_name()}};
      print_now(line.dump() + "\n");
    }
    return;
  }
  print_now(fmt::format("\nrows verified  experts       bytes  at {:5.1f} GB/s    measured\n",
                        read / 1e9));
  for (const study::VerifiedRows& v : bench.rows) {
    print_now(fmt::format("{:13}  {:7.1f}  {:>10}  {:>10}  {:>10}\n", v.rows, v.experts,
                          format_bytes(v.bytes), milliseconds(v.bytes / read),
                          milliseconds(v.seconds)));
  }
  print_now(
      "\ndraft  tokens a step  its bytes   measured  ceiling by bytes  by time  reached  accepted "
      "by position\n");
  for (const study::DraftWidthBench& b : bench.widths) {
    std::string line = fmt::format("{:>5}  {:13.2f}", name_of_width(b.width), b.tokens);
    if (b.width > 0) {
      line += fmt::format("  {:>9}  {:>9}  {:15.2f}x  {:6.2f}x", format_bytes(b.bytes),
                          milliseconds(b.seconds), b.ceiling_bytes, b.ceiling_seconds);
    } else {
      line += fmt::format("{:48}", "");
    }
    line += fmt::format("  {:6.2f}x ", b.gain);
    for (const double share : b.accepted) line += fmt::format(" {:.0f}%", 100 * share);
    print_now(line + "\n");
  }
}

// The tokens that prompts are cut from: the file's, or any.
std::vector<int32_t> prompt_tokens(const DecodeArguments& arguments,
                                   const infer::LoadedModel& loaded) {
  if (!arguments.text_file.empty()) {
    return text::Tokenizer::load(loaded.folder).encode(read_file(arguments.text_file));
  }
  std::vector<int32_t> out;
  Rng rng(stream_key(1, 0, "bench.tokens"));
  for (int64_t i = 0; i < 16 * arguments.prompt; ++i) {
    out.push_back(
        static_cast<int32_t>(rng.below(static_cast<uint64_t>(loaded.config.model.vocab_size))));
  }
  return out;
}

void bench_model(const DecodeArguments& arguments, const fs::path& folder,
                 const std::string& name) {
  infer::LoadedModel loaded = infer::load_model(folder, arguments.precision);
  const std::vector<int32_t> tokens = prompt_tokens(arguments, loaded);  // or it says why not
  const study::DecodeBench r =
      study::bench_decode(loaded, arguments.prompt, arguments.text, arguments.prefill_rows);
  const auto drafts = [&] {
    if (!loaded.model->has_mtp()) return;
    print_drafts(study::bench_draft(loaded, tokens, arguments.prompt, arguments.text,
                                    {.temperature = arguments.temperature}),
                 r.read, arguments.json);
  };
  if (arguments.json) {
    const auto object = [&](const char* what, double rate, double share,
                            const nlohmann::ordered_json& more = {}) {
      nlohmann::ordered_json line = {{"name", what},
                                     {"shape", fmt::format("{}+{}", r.prompt, r.text)},
                                     {"threads", thread_count()},
                                     {"value", rate},
                                     {"unit", "tokens/s"},
                                     {"share", share},
                                     {"isa", ops::isa_name()}};
      if (!more.empty()) line.update(more);
      print_now(line.dump() + "\n");
    };
    object("prefill", r.prefill_rate, r.prefill_share);
    object("prefill_read_rows", r.read_prefill_rate, r.read_prefill_rate / r.prefill_rate);
    nlohmann::ordered_json pages;
    if (loaded.packed) pages["large_pages"] = r.large_pages;
    object("decode", r.decode_rate, r.decode_share, pages);
    drafts();
    return;
  }
  print_now(fmt::format(
      "{}, {}, {} threads, {}; medians\n"
      "prefill of {:4} tokens  {:9.1f} tokens/s  {:5.1f}% of a peak of {:.0f} GFLOP/s\n"
      "  what is read alone    {:9.1f} tokens/s\n"
      "decode of {:5} tokens  {:9.1f} tokens/s  {:5.1f}% of reading at {:.1f} GB/s ({} a "
      "token{})\n",
      name, spelling(arguments.precision), thread_count(), ops::isa_name(), r.prompt,
      r.prefill_rate, 100 * r.prefill_share, r.prefill_peak / 1e9, r.read_prefill_rate, r.text,
      r.decode_rate, 100 * r.decode_share, r.read / 1e9, format_bytes(r.token_bytes),
      loaded.packed ? fmt::format("; {:.0f}% of the weights in large pages", 100 * r.large_pages)
                    : ""));
  print_now("a prompt\n");
  print_ops(r.prefill_ops.ops, r.prefill_ops.seconds);
  print_now("a decoded token\n");
  print_ops(r.decode_ops.ops, r.decode_ops.seconds);
  drafts();
}

void run_decode(const DecodeArguments& arguments) {
  infer::Sampling{.temperature = arguments.temperature}.check();
  if (arguments.synthetic.empty()) return bench_model(arguments, arguments.model, arguments.model);
  const checkpoint::HfConfig config = synthetic_config(arguments);
  study::check_decode_bench(config.model, arguments.prompt, arguments.text);
  catch_interrupts(kRemovingHalves);
  std::optional<TemporaryFolder> temporary;
  if (arguments.keep.empty()) {
    temporary.emplace();
    study::write_synthetic_model(temporary->path(), config);
  } else {
    if (fs::exists(arguments.keep) && !fs::is_empty(arguments.keep)) {
      fail("{}: is not empty", arguments.keep);
    }
    write_folder_atomic(arguments.keep,
                        [&](const fs::path& into) { study::write_synthetic_model(into, config); });
  }
  const std::string layers =
      arguments.layers > 0 ? fmt::format(", {} layers", arguments.layers) : "";
  bench_model(arguments, temporary ? temporary->path() : fs::path(arguments.keep),
              fmt::format("random model of {}{}", arguments.synthetic, layers));
}

struct TokenizerArguments {
  std::string tokenizer, file;
  bool json = false;
};

void run_tokenizer(const TokenizerArguments& arguments) {
  const auto tokenizer = load_tokenizer(arguments.tokenizer);
  const std::string text = read_file(arguments.file);
  const study::TokenizerBench r = study::bench_tokenizer(tokenizer, text);
  if (arguments.json) {
    const nlohmann::ordered_json line = {
        {"name", "tokenizer_encode"},        {"shape", arguments.file}, {"threads", 1},
        {"value", r.bytes_per_second / 1e6}, {"unit", "MB/s"},          {"tokens", r.tokens}};
    print_now(line.dump() + "\n");
    return;
  }
  print_now(fmt::format("{}: {} in {} tokens; encoded in one thread at {:.1f} MB/s (median)\n",
                        arguments.file, format_bytes(static_cast<double>(r.bytes)),
                        format_count(static_cast<double>(r.tokens)), r.bytes_per_second / 1e6));
}

void add_kernels(CLI::App& bench) {
  struct Arguments {
    study::BenchOptions options;
    bool json = false, quick = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* kernels = bench.add_subcommand("kernels", "Every hot op, on one thread and on all");
  kernels->footer(kBenchFooter);
  kernels->add_option("--only", arguments->options.only, "Ops whose name or shape holds this");
  kernels->add_flag("--json", arguments->json, "One JSON object a line");
  kernels->add_flag("--quick", arguments->quick, "One short burst each");
  kernels->callback([arguments] {
    study::BenchOptions options = arguments->options;
    options.threads = {1};
    if (thread_count() > 1) options.threads.push_back(thread_count());
    if (arguments->quick) {
      options.bursts = 1;
      options.burst_seconds = 0;
    }
    run_kernels(options, arguments->json);
  });
}

void add_train(CLI::App& bench) {
  const auto train_arguments = std::make_shared<BenchTrainArguments>();
  train::Options& o = train_arguments->options;
  CLI::App* train = bench.add_subcommand("train", "Whole training steps, and their ops");
  train->footer(kBenchTrainFooter);
  train->add_option("--size", o.size, "A model that comes with minke: nano, tiny or small")
      ->capture_default_str();
  train->add_option("--model", o.model, "A config.json instead");
  train->add_option("--batch", o.batch, "Sequences a step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  train->add_option("--micro-batch", o.micro_batch, "Sequences computed at once (0: --batch)")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  train->add_option("--seq", o.seq, "Tokens a sequence")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  add_choice(*train, "--precision", o.precision, "What is computed in");
  add_choice(*train, "--recompute", o.recompute, "What a backward computes again");
  train->add_option("--steps", train_arguments->steps, "Steps that are timed")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  train->add_flag("--json", train_arguments->json, "A JSON object");
  train->callback([train_arguments] { run_train(*train_arguments); });
}

void add_decode(CLI::App& bench) {
  const auto d = std::make_shared<DecodeArguments>();
  CLI::App* decode = bench.add_subcommand("decode", "Prefill and decode of a model");
  decode->footer(kBenchDecodeFooter);
  auto* which = decode->add_option_group("model", "Which model");
  which->add_option("model", d->model, "A model's folder, or a run's");
  CLI::Option* synthetic = which->add_option(
      "--synthetic", d->synthetic,
      "A config.json: of a random model of that shape, which is written to a temporary "
      "folder and deleted after");
  which->require_option(1);
  decode->add_option("--keep", d->keep, "A new folder for the random model, which is kept");
  add_integer_options(*decode, d->integers);
  decode
      ->add_option("--layers", d->layers,
                   "Of a random model, so many of its layers, and no MTP; 0: all")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  decode->add_option("--dense", d->dense, "Of a random model, so many dense layers before MoE ones")
      ->check(CLI::Range(0, 1 << 20));
  for (const char* of_random : {"--keep", "--experts", "--head", "--layers", "--dense"}) {
    decode->get_option(of_random)->needs(synthetic);
  }
  decode->add_option("--prompt", d->prompt, "Tokens of the prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  decode->add_option("--text", d->text, "Tokens decoded after it")
      ->check(CLI::Range(32, 1 << 20))
      ->capture_default_str();
  decode->add_option("--prefill", d->prefill_rows, "Tokens of the prompt computed at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  add_precision(*decode, d->precision);
  decode
      ->add_option("--prompts", d->text_file,
                   "A text whose pieces are the prompts of drafted texts (default: any tokens)")
      ->excludes(synthetic);
  decode->add_option("--temperature", d->temperature, "Of drafted texts; 0 is greedy")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  decode->add_flag("--json", d->json, "JSON objects");
  decode->callback([d] { run_decode(*d); });
}

void add_tokenizer(CLI::App& bench) {
  const auto t = std::make_shared<TokenizerArguments>();
  CLI::App* tokenizer = bench.add_subcommand("tokenizer", "Encoding of a text, in one thread");
  tokenizer->footer("Example:\n  minke bench tokenizer runs/first books/emma.txt");
  tokenizer->add_option("tokenizer", t->tokenizer, "A folder with a tokenizer, or a run's")
      ->required();
  tokenizer->add_option("file", t->file, "A file of text")->required();
  tokenizer->add_flag("--json", t->json, "A JSON object");
  tokenizer->callback([t] { run_tokenizer(*t); });
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Speed, as shares of what the machine can do");
  command->require_subcommand(1);
  command->footer("`minke bench COMMAND --help` explains a command.");
  add_kernels(*command);
  add_train(*command);
  add_decode(*command);
  add_tokenizer(*command);
}

}  // namespace minke::app

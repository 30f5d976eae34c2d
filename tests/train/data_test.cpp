#include "train/data.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <set>

#include "base/rng.h"
#include "base/small_disk.h"
#include "base/thread_pool.h"
#include "train/data_corpus.h"
#include "train/held_out.h"

namespace minke::train {
namespace {

using testing::ElementsAre;

class DataTest : public testing::Test {
 protected:
  DataTest() {
    write_text(folder_ / "text/a.txt", "first");
    write_text(folder_ / "text/b.jsonl", "{\"text\":\"second\"}\n{\"text\":\"3\"}\n");
  }
  std::vector<SourceFile> files(const std::string& name = "text") {
    return find_sources({(folder_ / name).string()}, folder_ / "keep");
  }
  TokenStore store(const Encoder& encoder = byte_encoder(), double held_out = 0) {
    return tokenise(Corpus(files(), "text", held_out, 1), encoder, folder_ / "out/tokens");
  }
  static std::vector<std::string> texts(const TokenStore& store) {
    std::vector<std::string> out;
    for (int64_t i = 0; i < store.documents(); ++i) out.push_back(text_of(store.tokens(i)));
    return out;
  }

  TemporaryFolder folder_;
};

TEST_F(DataTest, DocumentsBetweenTheirEnds) {
  const TokenStore tokens = store();
  EXPECT_THAT(texts(tokens), ElementsAre("<first>", "<second>", "<3>"));
  EXPECT_EQ(tokens.bytes(1), 6);
  EXPECT_FALSE(tokens.reused());
}

TEST_F(DataTest, TokenisedOnce) {
  std::atomic<int> calls = 0;
  Encoder counting = byte_encoder();
  counting.encode = [&, encode = counting.encode](std::string_view text) {
    ++calls;
    return encode(text);
  };
  const std::string hash = store(counting).hash();
  EXPECT_EQ(calls, 3);
  const TokenStore again = store(counting);
  EXPECT_TRUE(again.reused());
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(again.hash(), hash);
  EXPECT_THAT(texts(again), ElementsAre("<first>", "<second>", "<3>"));
}

TEST_F(DataTest, ChangedTextOrTokenizerIsTokenisedAgain) {
  const std::string hash = store().hash();
  write_text(folder_ / "text/a.txt", "fIrst");
  const TokenStore changed = store();
  EXPECT_FALSE(changed.reused());
  EXPECT_NE(changed.hash(), hash);
  EXPECT_EQ(text_of(changed.tokens(0)), "<fIrst>");
  EXPECT_FALSE(store(byte_encoder("other")).reused());
  // Text that moves from one document to the next is another corpus, though its bytes are the same.
  write_text(folder_ / "text/a.txt", "ab");
  write_text(folder_ / "text/b.txt", "c");
  const std::string before = store().hash();
  write_text(folder_ / "text/a.txt", "a");
  write_text(folder_ / "text/b.txt", "bc");
  EXPECT_NE(store().hash(), before);
}

TEST_F(DataTest, DamagedTokensAreMadeAgain) {
  store();
  for (const char* name : {"manifest.json", "tokens-00000.safetensors"}) {
    const fs::path path = folder_ / "out/tokens" / name;
    fs::resize_file(path, fs::file_size(path) - 4);
    EXPECT_THROW(TokenStore(folder_ / "out/tokens"), Error);
    EXPECT_FALSE(store().reused()) << name;
    EXPECT_TRUE(store().reused()) << name;
  }
  // A token no vocabulary has.
  const fs::path path = folder_ / "out/tokens/tokens-00000.safetensors";
  std::string bytes = read_file(path);
  bytes.replace(bytes.size() - 4, 4, "\xff\xff\xff\x7f");
  write_text(path, bytes);
  EXPECT_THAT([&] { TokenStore broken(folder_ / "out/tokens"); }, error_with("token 2147483647"));
  EXPECT_FALSE(store().reused());
}

// Trap 18: whatever the bytes, tokens are read whole or refused with an Error.
TEST_F(DataTest, Trap18MutationsAreReadOrThrow) {
  store();
  Rng rng(stream_key(1, 0, "mutations"));
  for (const char* name : {"manifest.json", "tokens-00000.safetensors"}) {
    const fs::path path = folder_ / "out/tokens" / name;
    const std::string good = read_file(path);
    int refused = 0, read = 0;
    for (int i = 0; i < 300; ++i) {
      std::string bytes = good;
      const size_t at = rng.below(bytes.size());
      if (rng.below(4) == 0) {
        bytes.resize(at);
      } else {
        bytes[at] = rng.below(2) == 0 ? static_cast<char>(rng.next_u32())
                                      : "0123456789{}[]\",:-"[rng.below(18)];
      }
      write_text(path, bytes);
      try {
        const TokenStore tokens(folder_ / "out/tokens");
        for (int64_t d = 0; d < tokens.documents(); ++d) {
          for (const int32_t token : tokens.tokens(d)) EXPECT_GE(token, 0);
        }
        ++read;
      } catch (const Error&) {
        ++refused;
      }
    }
    EXPECT_GT(refused, 100) << name;
    EXPECT_GT(read, 5) << name;
    write_text(path, good);
  }
}

TEST_F(DataTest, SameBytesForAnyNumberOfThreads) {
  std::string lines;
  for (int i = 0; i < 500; ++i) lines += fmt::format("{{\"text\":\"{}\"}}\n", i * i);
  write_text(folder_ / "text/many.jsonl", lines);
  const int threads = thread_count();
  std::set<std::string> seen;
  for (const int n : {1, 2, 3}) {
    set_thread_count(n);
    fs::remove_all(folder_ / "out");
    store();
    seen.insert(read_file(folder_ / "out/tokens/tokens-00000.safetensors"));
  }
  set_thread_count(threads);
  EXPECT_EQ(seen.size(), 1U);
}

TEST_F(DataTest, BadTextLeavesWhatWasThere) {
  const std::string hash = store().hash();
  write_text(folder_ / "text/c.txt", "caf\xe9");
  EXPECT_THAT([&] { store(); },
              error_with((folder_ / "text/c.txt").string(), "not UTF-8 at byte 3"));
  fs::remove(folder_ / "text/c.txt");
  EXPECT_EQ(store().hash(), hash);
  EXPECT_TRUE(store().reused());
}

TEST_F(DataTest, AFullOrReadOnlyDiskIsAnErrorAndLeavesNothing) {
  SmallDisk disk(64 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.why_not();
  write_text(folder_ / "text/long.txt", std::string(100000, 'x'));
  const auto run = [&] { tokenise(Corpus(files()), byte_encoder(), disk / "tokens"); };
  EXPECT_THAT(run, error_with(disk.path().string(), "need about 400"));
  EXPECT_TRUE(fs::is_empty(disk.path()));
  disk.make_read_only();
  EXPECT_THAT(run, error_with(disk.path().string()));
}

// Killed at any moment, tokenising leaves a whole store, or none.
TEST_F(DataTest, AKillLeavesNothingHalfUsed) {
  // A forked child has none of its parent's threads.
  const int threads = thread_count();
  set_thread_count(1);
  const TokenStore expected = store();
  int killed = 0;
  for (int i = 0; i < 5; ++i) {
    fs::remove_all(folder_ / "out");
    const pid_t child = ::fork();
    if (child == 0) {
      int calls = 0;
      Encoder encoder = byte_encoder();
      encoder.encode = [&, encode = encoder.encode](std::string_view text) {
        if (calls++ == i) ::kill(::getpid(), SIGKILL);
        return encode(text);
      };
      store(encoder);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    killed += static_cast<int>(WIFSIGNALED(status));
    const TokenStore after = store();
    EXPECT_EQ(after.reused(), !WIFSIGNALED(status));
    EXPECT_THAT(texts(after), ElementsAre("<first>", "<second>", "<3>"));
    EXPECT_EQ(after.hash(), expected.hash());
  }
  EXPECT_EQ(killed, 3);
  set_thread_count(threads);
}

TEST_F(DataTest, AnOnlyDocumentIsCutAtALineBreak) {
  const std::string text = "a line\nanother line\nthe third\nlast\n";
  fs::remove_all(folder_ / "text");
  write_text(folder_ / "text/a.txt", text);
  const TokenStore tokens = store(byte_encoder(), 0.2);
  EXPECT_THAT(texts(tokens), ElementsAre("<a line\nanother line\n>", "<the third\nlast\n>"));
  const Split split = split_documents(tokens);
  EXPECT_THAT(split.train, ElementsAre(0));
  EXPECT_THAT(split.valid, ElementsAre(1));
  write_text(folder_ / "text/a.txt", std::string(100, 'x'));
  EXPECT_THAT([&] { store(byte_encoder(), 0.2); }, error_with("a.txt", "line breaks"));
  EXPECT_EQ(store(byte_encoder(), 0).documents(), 1);
}

TEST_F(DataTest, HoldsOutWholeDocuments) {
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += fmt::format("{{\"text\":\"document {:03}\"}}\n", i);
  fs::remove_all(folder_ / "text");
  write_text(folder_ / "text/a.jsonl", lines);
  const Split split = split_documents(store(byte_encoder(), 0.1));
  EXPECT_EQ(split.valid.size(), 20U);
  EXPECT_EQ(split.train.size(), 180U);
  std::set<int64_t> all(split.train.begin(), split.train.end());
  all.insert(split.valid.begin(), split.valid.end());
  EXPECT_EQ(all.size(), 200U);
  EXPECT_TRUE(std::is_sorted(split.train.begin(), split.train.end()));
  const TokenStore again = store(byte_encoder(), 0.1);
  EXPECT_TRUE(again.reused());
  EXPECT_EQ(split_documents(again).valid, split.valid);
  EXPECT_TRUE(split_documents(store()).valid.empty());
}

// A small document beside a large one, and four that are equal: whatever is drawn first.
TEST_F(DataTest, HoldsOutAboutWhatWasAskedForOfDocumentsOfAnySize) {
  std::string line;
  for (int i = 0; i < 12; ++i) line += fmt::format("word {} ", i);
  const auto lines = [&](size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += line + "\n";
    return text;
  };
  for (const std::vector<size_t>& sizes :
       std::vector<std::vector<size_t>>{{3'000, 110'000}, {30'000, 30'000, 30'000, 30'000}}) {
    fs::remove_all(folder_ / "text");
    int64_t total = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const std::string text = lines(sizes[i]);
      total += std::ssize(text);
      write_text(folder_ / fmt::format("text/{}.txt", i), text);
    }
    for (const uint64_t seed : {1, 5, 8, 10}) {
      const TokenStore tokens =
          tokenise(Corpus(files(), "text", 0.05, seed), byte_encoder(), folder_ / "out/tokens");
      int64_t held = 0, all = 0;
      for (int64_t d = 0; d < tokens.documents(); ++d) {
        all += tokens.bytes(d);
        if (tokens.is_held_out(d)) held += tokens.bytes(d);
      }
      EXPECT_EQ(all, total);
      EXPECT_GE(static_cast<double>(held), 0.025 * static_cast<double>(total)) << seed;
      EXPECT_LE(static_cast<double>(held), 0.1 * static_cast<double>(total)) << seed;
    }
  }
}

TEST(HeldOutChoice, NeverAllAndOneAtLeast) {
  const std::vector<DocumentSize> small(200, {12, -1});
  EXPECT_EQ(choose_held_out(small, 1e-9, 1).documents.size(), 1U);
  EXPECT_EQ(choose_held_out(small, 0.9999, 1).documents.size(), 199U);
  EXPECT_EQ(choose_held_out(small, 0.1, 1).documents, choose_held_out(small, 0.1, 1).documents);
  EXPECT_NE(choose_held_out(small, 0.1, 1).documents, choose_held_out(small, 0.1, 2).documents);
  // None can be cut: the smallest.
  EXPECT_THAT(
      choose_held_out(std::vector<DocumentSize>{{90, -1}, {50, -1}, {70, -1}}, 0.05, 1).documents,
      ElementsAre(1));
  // The one that can be.
  const HeldOutChoice cut =
      choose_held_out(std::vector<DocumentSize>{{90, -1}, {50, 30}, {60, -1}}, 0.05, 1);
  EXPECT_TRUE(cut.documents.empty());
  EXPECT_EQ(cut.cut, 1);
  EXPECT_EQ(cut.tail_bytes, 10);
}

// Documents are tokenised in parallel, and stay in their order.
TEST_F(DataTest, HeldOutTextOfManyDocumentsIsInTheirOrder) {
  const TemporaryFolder folder;
  std::string lines, expected = "<";
  for (int i = 0; i < 500; ++i) {
    lines += fmt::format("{{\"text\": \"{};\"}}\n", i);
    expected += fmt::format("{};", i);
  }
  write_text(folder / "many.jsonl", lines);
  const HeldOut held = held_out({source_file(folder / "many.jsonl")}, "text", byte_encoder());
  EXPECT_EQ(text_of(held.tokens), expected);
  EXPECT_EQ(held.bytes, std::ssize(expected) - 1);
}

TEST_F(DataTest, HeldOutTextIsOneDocument) {
  const HeldOut from_files = held_out(files(), "text", byte_encoder());
  EXPECT_EQ(text_of(from_files.tokens), "<firstsecond3");
  EXPECT_EQ(from_files.bytes, 12);
  const TokenStore tokens = store();
  const HeldOut from_store = held_out(tokens, std::vector<int64_t>{0, 2}, byte_encoder());
  EXPECT_EQ(text_of(from_store.tokens), "<first3");
  EXPECT_EQ(from_store.bytes, 6);
  EXPECT_THAT([&] { held_out(tokens, {}, byte_encoder()); }, error_with("no text is held out"));
}

}  // namespace
}  // namespace minke::train

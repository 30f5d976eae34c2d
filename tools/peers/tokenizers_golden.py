#!/usr/bin/env python3
"""Makes tests/golden/tokenizers: small tokenizers of each kind that minke reads, and what the
libraries that define them make of the strings of DeepSeek-V3's golden.jsonl.

Usage: tools/peers/tokenizers_golden.py      (pip: tokenizers tiktoken)
"""
import base64
import json
import pathlib

import tiktoken
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden"
LINES = (ROOT / "deepseek-v3-tokenizer/golden.jsonl").read_text().splitlines()
TEXTS = [json.loads(line)["text"] for line in LINES]
BOS, EOS, USER = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>"
VOCABULARY = 640
KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
])
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def trained(tokenizer, alphabet=(), special=()):
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(special),
                                  initial_alphabet=list(alphabet), show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in (BOS, EOS)])
    tokenizer.add_tokens([AddedToken(USER, normalized=False)])
    return tokenizer


def write(name, files, ids, decode):
    folder = ROOT / "tokenizers" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text)
    with open(folder / "golden.jsonl", "w") as out:
        for text, these in zip(TEXTS, ids, strict=True):
            line = {"ids": these}
            if decode(these) != text:
                line["decoded"] = decode(these)
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_tokenizer(name, tokenizer, config):
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    write(name, {"tokenizer.json": tokenizer.to_str() + "\n",
                 "tokenizer_config.json": json.dumps(config, ensure_ascii=False) + "\n"}, ids,
          lambda these: tokenizer.decode(these, skip_special_tokens=False))


def digits():
    """DeepSeek-V2's kind: several splits, each digit alone, begin of sentence by a template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        split(r"[\r\n]"), split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺΑ-Ωα-ωА-яЁё]+"),
        split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"), split(r"[一-龥ࠀ-一가-퟿]+"),
        pre_tokenizers.Digits(individual_digits=True), byte_level()])
    tokenizer.decoder = decoders.ByteLevel()
    trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    write_tokenizer("digits", tokenizer, {"eos_token": EOS})


def whole():
    """Llama 3's kind: NFC, a piece that is a token is that token whatever the merges say."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(LLAMA3), byte_level()])
    tokenizer.decoder = decoders.ByteLevel()
    trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())
    parts = json.loads(tokenizer.to_str())
    parts["model"]["ignore_merges"] = True
    parts["model"]["merges"] = parts["model"]["merges"][::2]
    tokens = set(parts["model"]["vocab"])
    # A merge whose parts can no longer be made is never used, but it must name tokens.
    parts["model"]["merges"] = [m for m in parts["model"]["merges"] if set(m) <= tokens]
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False)])
    write_tokenizer("whole", tokenizer, {"bos_token": BOS, "eos_token": EOS})


def gpt2():
    """GPT-2's kind: ByteLevel splits by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())
    write_tokenizer("gpt2", tokenizer, {"bos_token": {"content": BOS}, "eos_token": EOS})


def fallback():
    """Llama 2's kind: tokens are text, and what has no token is bytes."""
    space = "▁"
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)])
    tokenizer.pre_tokenizer = split(r"[^\p{L}]+|\p{L}+")  # so that training sees words
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, limit_alphabet=120, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    parts = json.loads(tokenizer.to_str())
    model = parts["model"]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    model["vocab"] = {t: i for i, t in enumerate(bytes_ + [t for t in model["vocab"]])}
    parts["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<s>", "</s>")])
    write_tokenizer("fallback", tokenizer,
                    {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})


def kimi():
    """Moonlight's and Kimi's: tiktoken.model, and special tokens in tokenizer_config.json."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([split(LLAMA3), byte_level()])
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(TEXTS, trainer)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    by_id = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in by_id}
    base = len(ranks)
    names = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>",
             10: "<|im_system|>", 17: "<|im_middle|>"}
    special = {name: base + i for i, name in names.items()}
    encoding = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks,
                                 special_tokens=special)
    ids = [encoding.encode(text, allowed_special="all") for text in TEXTS]
    model = "".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in ranks.items())
    config = {"added_tokens_decoder": {
        str(i): {"content": name, "lstrip": False, "normalized": False, "rstrip": False,
                 "single_word": False, "special": True} for name, i in special.items()},
        "bos_token": "[BOS]", "eos_token": "[EOS]", "tokenizer_class": "TikTokenTokenizer"}
    write("kimi", {"tiktoken.model": model, "tokenizer_config.json": json.dumps(config) + "\n"},
          ids, encoding.decode)


for make in (digits, whole, gpt2, fallback, kimi):
    make()

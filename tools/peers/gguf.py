#!/usr/bin/env python3
"""Exports a model as GGUF and has llama.cpp read it: the same tokens of a text, the same greedy
continuation as minke's.

llama.cpp multiplies in the weights' own type (activations of BF16 for BF16, of F16 for F16, of int8
for Q8_0) and minke here in FP32, so BF16 and Q8_0 may part where two tokens are nearly as likely.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install --no-binary llama-cpp-python \\
        llama-cpp-python        # builds llama.cpp: some ten minutes of one core
    /tmp/peers/bin/python tools/peers/gguf.py runs/demo --types bf16 f16 q8_0

Nothing of minke's build or tests needs this.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import llama_cpp

PROMPTS = ["It is a truth universally acknowledged, that", "Anne ", "The 3 ladies—", "\"My dear,\""]


def minke(args, *command, stdin=None):
    return subprocess.run([args.minke, *command], input=stdin, capture_output=True, check=True,
                          text=True).stdout


def common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def compare(args, gguf, kind):
    peer = llama_cpp.Llama(str(gguf), n_ctx=args.tokens + 64, type_k=0, type_v=0, n_threads=1,
                           n_threads_batch=1, verbose=False)
    same = 0
    for prompt in PROMPTS:
        ids = [int(i) for i in minke(args, "tokenizer", "encode", args.model, stdin=prompt).split()]
        theirs = peer.tokenize(prompt.encode(), add_bos=False, special=False)
        if ids != theirs:
            sys.exit(f"{kind}: {prompt!r}: tokens differ: {ids} and {theirs}")
        text = minke(args, "generate", args.model, "--prompt", prompt, "--temperature", "0",
                     "--precision", "fp32",
                     "--max-tokens", str(args.tokens)).removesuffix("\n")
        peer.reset()
        tokens = []
        for token in peer.generate([peer.token_bos(), *theirs], top_k=1, temp=0.0,
                                   repeat_penalty=1.0):
            if token == peer.token_eos() or len(tokens) == args.tokens:
                break
            tokens.append(token)
        got = peer.detokenize(tokens).decode(errors="replace").removesuffix("\n")
        # Both may end within a character.
        equal = got == text or got.rstrip("\ufffd") == text.rstrip("\ufffd")
        same += equal
        n = common(got, text)
        print(f"{kind}: {prompt!r}: the same" + ("" if equal else
              f" for {n} characters of {len(text)}: minke {text[n:n + 30]!r}, "
              f"llama.cpp {got[n:n + 30]!r}"))
    print(f"{kind}: {same} of {len(PROMPTS)} greedy texts of {args.tokens} tokens are the same")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model's folder, or a run's")
    parser.add_argument("--types", nargs="+", default=["bf16", "f16", "q8_0"])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--minke", default=str(pathlib.Path(__file__).parents[2] / "build/minke"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.types:
            gguf = pathlib.Path(folder) / f"{kind}.gguf"
            print(minke(args, "export", args.model, "--gguf", str(gguf), "--type", kind), end="")
            compare(args, gguf, kind)


main()

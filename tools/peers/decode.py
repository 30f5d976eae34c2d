#!/usr/bin/env python3
"""Prefill and decode of minke beside llama.cpp, in one run on one machine.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install --no-binary llama-cpp-python \\
        llama-cpp-python        # builds llama.cpp: some ten minutes of one core
    /tmp/peers/bin/python tools/peers/decode.py --folder /tmp/peers-models

Random models of one shape (Moonlight's, 6 layers of it, with a vocabulary of 32,768 and q_lora_rank
768, without which llama.cpp does not read so few layers): minke's in FP8, and with experts and head
in int8, and in int4 and int8; llama.cpp's the first of them, exported as Q8_0. All take turns, each in
a process of its own, since neighbours and pages change the machine's speed; medians are compared.
20 GB of disk are needed, and as much memory to read from it only once. With --folder the models
stay, and are used again. Nothing of minke's build or tests needs this.
"""
import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
MODELS = {"fp8": [], "int8": ["--experts", "int8", "--head", "int8"],
          "int4": ["--experts", "int4", "--head", "int8"]}


def run(*command, text=None):
    return subprocess.run([str(c) for c in command], check=True, input=text, stdout=subprocess.PIPE,
                          text=True).stdout


# What `--llama FILE` does: prints median rates.
def llama(args):
    import llama_cpp  # reported missing where it is needed
    peer = llama_cpp.Llama(args.llama, n_ctx=args.prompt + args.text, n_batch=args.prompt,
                           n_ubatch=args.prompt, n_threads=args.threads,
                           n_threads_batch=args.threads, verbose=False)
    prefill, decode = [], []
    for _ in range(args.bursts + 1):
        tokens = [random.randrange(peer.n_vocab()) for _ in range(args.prompt + args.text)]
        peer.reset()
        start = time.perf_counter()
        peer.eval(tokens[:args.prompt])
        middle = time.perf_counter()
        for token in tokens[args.prompt:]:
            peer.eval([token])
        prefill.append(args.prompt / (middle - start))
        decode.append(args.text / (time.perf_counter() - middle))
    # The first burst reads the file.
    print(json.dumps({"prefill": statistics.median(prefill[1:]),
                      "decode": statistics.median(decode[1:])}))


def make_models(args, folder):
    config = json.loads((ROOT / "tests/golden/configs/moonlight-16b-a3b.json").read_text())
    config.update(vocab_size=32768, q_lora_rank=768, bos_token_id=1, eos_token_id=1)
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3",
                                     "activation_scheme": "dynamic",
                                     "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    for name, options in MODELS.items():
        if not (folder / name).exists():
            print(f"writing {name}", flush=True)
            run(args.minke, "bench", "decode", "--synthetic", folder / "config.json", "--layers", 6,
                "--keep", folder / name, *options, "--json")
    gguf = folder / "q8_0.gguf"
    if not gguf.exists():
        print("exporting Q8_0", flush=True)
        # A file of llama.cpp's has a tokenizer in it; which one matters to nobody here.
        run(args.minke, "tokenizer", "train", "--data", "-", "--vocab", 512, "--out",
            folder / "tokenizer", text=(ROOT / "README.md").read_text())
        for file in (folder / "tokenizer").iterdir():
            (folder / "fp8" / file.name).write_bytes(file.read_bytes())
        run(args.minke, "export", folder / "fp8", "--gguf", gguf, "--type", "q8_0")
    return gguf


def minke_rates(args, model):
    out = run(args.minke, "bench", "decode", model, "--prompt", args.prompt, "--prefill",
              args.prompt, "--text", args.text, "--threads", args.threads, "--json")
    lines = {line["name"]: line for line in map(json.loads, out.splitlines())}
    return {what: lines[what]["value"] for what in ("prefill", "decode")}


def llama_rates(args, gguf):
    return json.loads(run(sys.executable, __file__, "--llama", gguf, "--prompt", args.prompt,
                          "--text", args.text, "--threads", args.threads, "--bursts", args.bursts))


def compare(args, folder):
    gguf = make_models(args, folder)
    peers = {f"minke {name}": lambda name=name: minke_rates(args, folder / name) for name in MODELS}
    peers["llama.cpp Q8_0"] = lambda: llama_rates(args, gguf)
    rates = {name: [] for name in peers}
    for _ in range(args.turns):
        for name, measure in peers.items():
            rates[name].append(measure())
            print(f"  {name}: " + ", ".join(f"{k} {v:.1f}" for k, v in rates[name][-1].items()),
                  flush=True)
    print(f"tokens/s, medians of {args.turns} turns: prefill of {args.prompt}, decode of "
          f"{args.text} after it, {args.threads} threads")
    for name, turns in rates.items():
        medians = [statistics.median(t[what] for t in turns) for what in ("prefill", "decode")]
        print(f"{name:15} {medians[0]:8.1f} {medians[1]:8.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where models are, or will be (default: deleted after)")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--text", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--bursts", type=int, default=3, help="of llama.cpp, in a turn")
    parser.add_argument("--llama", metavar="FILE", help="measure llama.cpp alone, on this file")
    parser.add_argument("--minke", default=str(ROOT / "build/minke"))
    args = parser.parse_args()
    if args.llama:
        llama(args)
    elif args.folder:
        folder = pathlib.Path(args.folder)
        folder.mkdir(parents=True, exist_ok=True)
        compare(args, folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(args, pathlib.Path(folder))


main()

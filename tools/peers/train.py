#!/usr/bin/env python3
"""Training speed of minke beside PyTorch with transformers, in one run on one machine.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install torch transformers
    /tmp/peers/bin/python tools/peers/train.py configs/tiny.json --batch 8 --seq 256

Both train the same config on random tokens: forward, backward, clip, AdamW. PyTorch computes under
BF16 autocast with FP32 weights, experts as grouped products, compiled unless --no-compile. The two
take turns (or come one after the other: --apart), and medians of the turns are compared. Nothing of minke's build or tests needs this.
"""
import argparse
import gc
import json
import statistics
import subprocess
import sys
import time

import torch
import transformers


def torch_model(config_path, experts):
    config = transformers.AutoConfig.from_pretrained(config_path)
    config.use_cache = False
    config._experts_implementation = experts
    model = transformers.DeepseekV3ForCausalLM(config)
    return config, model.train()


class TorchTrainer:
    def __init__(self, args):
        torch.set_num_threads(args.threads)
        torch.manual_seed(1)
        self.config, self.model = torch_model(args.config, args.experts)
        self.run = torch.compile(self.model) if args.compile else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.batch, self.seq = args.batch, args.seq

    def step(self):
        tokens = torch.randint(0, self.config.vocab_size, (self.batch, self.seq + 1))
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.run(input_ids=tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.batch * self.seq / (time.perf_counter() - start)


def minke_rate(args):
    out = subprocess.run(
        [args.minke, "bench", "train", "--model", args.config, "--batch", str(args.batch),
         "--seq", str(args.seq), "--steps", str(args.steps), "--threads", str(args.threads),
         "--json"],
        check=True, capture_output=True, text=True).stdout
    result = json.loads(out)
    return result["value"], result["share"]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--apart", action="store_true", help="where memory does not hold both")
    parser.add_argument("--steps", type=int, default=5, help="steps a turn")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--experts", default="grouped_mm")
    parser.add_argument("--minke", default="build/minke")
    args = parser.parse_args()

    peer = TorchTrainer(args)
    start = time.perf_counter()
    for i in range(3):
        peer.step()  # compiles, touches memory
        print(f"PyTorch's step {i + 1} ended after {time.perf_counter() - start:.0f} s",
              file=sys.stderr)
    print("measuring", file=sys.stderr)
    torch_rates, minke_rates, shares = [], [], []
    for turn in range(args.turns):
        torch_rates += [peer.step() for _ in range(args.steps)]
        if args.apart and turn + 1 < args.turns:
            continue
        if args.apart:
            del peer
            gc.collect()
        for _ in range(args.turns if args.apart else 1):
            rate, share = minke_rate(args)
            minke_rates.append(rate)
            shares.append(share)
    ours, theirs = statistics.median(minke_rates), statistics.median(torch_rates)
    print(json.dumps({
        "config": args.config, "batch": args.batch, "seq": args.seq, "threads": args.threads,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "compiled": args.compile, "experts": args.experts,
        "torch_tokens_per_second": round(theirs, 1), "minke_tokens_per_second": round(ours, 1),
        "minke_mfu": round(statistics.median(shares), 3), "ratio": round(ours / theirs, 2)}))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Loads a model that minke trained in transformers: the same tokens of a text, and the same logits.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install torch transformers
    /tmp/peers/bin/python tools/peers/logits.py runs/demo --text data/demo/valid/persuasion.txt

Both compute in FP32 from the folder as it is, and from what `minke quantize` makes of it, which
transformers dequantises where there is no GPU. (It cuts a matrix into blocks of equal size, where
the format has whole blocks of 128 and what is left: a model with other widths is compared as it is
alone.) A difference is told as its norm over the norm of transformers' logits; above 1e-5, where
FP32 itself ends, the script fails. BF16 is told beside it: minke's against transformers' own, each
from those FP32 logits. Nothing of minke's build or tests needs this.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import safetensors
import safetensors.torch
import torch
import transformers

FP32_BOUND = 1e-5


def minke(args, *command, stdin=None):
    return subprocess.run([args.minke, *map(str, command)], input=stdin, capture_output=True,
                          check=True, text=True).stdout


def minke_logits(args, folder, text, precision):
    with tempfile.TemporaryDirectory() as made:
        path = pathlib.Path(made) / "a.safetensors"
        minke(args, "inspect", folder, "--activations", path, "--text", "-", "--precision",
              precision, "--select", "tokens", "logits", stdin=text)
        tensors = safetensors.torch.load_file(path)
    return tensors["tokens"].long(), tensors["logits"].double()


def their_logits(folder, tokens, dtype):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True)
    problems = {k: v for k, v in info.items() if v and k != "error_msgs"}
    # An MTP layer is no part of transformers' model.
    layer = f"model.layers.{model.config.num_hidden_layers}."
    problems["unexpected_keys"] = [k for k in problems.get("unexpected_keys", [])
                                   if not k.startswith(layer)]
    if any(problems.values()) or info["error_msgs"]:
        sys.exit(f"{folder}: transformers says {problems} {info['error_msgs']}")
    with torch.no_grad():
        return model.eval()(input_ids=tokens[None]).logits[0].double()


def has_equal_blocks(folder):
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()
                  if name + "_scale_inv" in file.keys()]
    return all(n <= 128 or n % 128 == 0 for shape in shapes for n in shape)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def compare(args, folder, what, text):
    tokens, fp32 = minke_logits(args, folder, text, "fp32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokens.tolist()[-len(theirs):] != theirs:
        sys.exit(f"{what}: tokens differ")
    peer = their_logits(folder, tokens, torch.float32)
    error = relative(fp32, peer)
    agree = (fp32.argmax(-1) == peer.argmax(-1)).double().mean().item()
    print(f"{what}, FP32: {len(tokens)} tokens, logits differ by {error:.2e} of their norm, "
          f"the likeliest is the same in {100 * agree:.1f} % of places")
    bf16 = minke_logits(args, folder, text, "bf16")[1]
    line = f"{what}, BF16 from FP32: minke {relative(bf16, peer):.2e}"
    if what != "fp8":
        line += f", transformers {relative(their_logits(folder, tokens, torch.bfloat16), peer):.2e}"
    print(line)
    return error <= FP32_BOUND


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a model's folder, or a run's")
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--characters", type=int, default=2000, help="of the text, from its start")
    parser.add_argument("--minke", default=str(pathlib.Path(__file__).parents[2] / "build/minke"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    text = args.text.read_text()[:args.characters]
    transformers.logging.set_verbosity_error()
    folder = args.model / "checkpoint" if (args.model / "checkpoint").is_dir() else args.model
    good = compare(args, folder, "as it is", text)
    with tempfile.TemporaryDirectory() as made:
        fp8 = pathlib.Path(made) / "fp8"
        print(minke(args, "quantize", folder, "--out", fp8), end="")
        if not has_equal_blocks(fp8):
            print("fp8: not compared: widths that are no multiples of 128")
        else:
            good = compare(args, fp8, "fp8", text) and good
    sys.exit(0 if good else f"FP32 differs by more than {FP32_BOUND}")


main()

#!/usr/bin/env python3
"""Goldens of the float64 oracle beside those of v3_reference.py: routers of other kinds, and steps of training.

    python3 more_goldens.py OUT [NAME ...]        needs PyTorch

v3-softmax and v2-normed are folders as v3_reference.py writes them. v3-softmax-steps/steps.safetensors is what training
computes from v3-softmax's model, step by step:
    tokens, documents [steps, B, S + 1 + D]    a row gives every depth S positions
    learning_rate, loss [1 + D], balance, gradient_norm, with [steps] before
    bias.N [steps, E], counts.N [steps, E]     of the router of layer N, after the step's update
    final.NAME                                 a weight after the last step
"""
import math, os, sys
import torch
import v3_reference as oracle

SMALL = dict(vocab_size=41, hidden_size=24, num_hidden_layers=2, q_lora_rank=12, kv_lora_rank=10, qk_nope_head_dim=8,
             qk_rope_head_dim=4, v_head_dim=6, num_attention_heads=2, num_key_value_heads=2, intermediate_size=20,
             moe_intermediate_size=9, n_routed_experts=6, n_group=3, topk_group=2, num_experts_per_tok=2)
CASES = {
    "v3-softmax": (oracle.config(**SMALL, scoring_func="softmax"), 0.1, False, False),
    # greedy reads no groups, so that n_group need not divide the experts
    "v2-normed": (oracle.config(**dict(SMALL, n_group=4), model_type="deepseek_v2", architectures=["DeepseekV2ForCausalLM"],
                                scoring_func="sigmoid", topk_method="greedy", num_nextn_predict_layers=0), 0.0, False, False),
}
STEPS, B, S = 8, 4, 11
LR, MIN_LR, WARMUP, BETA1, BETA2, EPS, DECAY, CLIP = 1e-2, 1e-3, 2, 0.9, 0.95, 1e-8, 0.1, 1.3
LAMBDA, ALPHA, GAMMA = 0.3, 1e-2, 1e-3


def learning_rate(step):
    if step <= WARMUP:
        return LR * step / WARMUP
    return MIN_LR + (LR - MIN_LR) * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def forward(model, tokens, doc):
    """As Model.forward, with S positions at every depth: tokens, doc [B, S + 1 + D] -> a mean loss for each depth."""
    c, w, eps = model.cfg, model.p, model.cfg["rms_norm_eps"]
    embed, attend, out = w["model.embed_tokens.weight"], doc[:, :S], []
    h = embed[tokens[:, :S]]
    for n in range(c["num_hidden_layers"]):
        h = model.block(n, h, attend)
    h = oracle.rms_norm(h, w["model.norm.weight"], eps)
    for k in range(c["num_nextn_predict_layers"] + 1):
        if k > 0:
            n = c["num_hidden_layers"] + k - 1
            p = f"model.layers.{n}."
            both = torch.cat((oracle.rms_norm(embed[tokens[:, k:S + k]], w[p + "enorm.weight"], eps),
                              oracle.rms_norm(h, w[p + "hnorm.weight"], eps)), -1)
            h = oracle.rms_norm(model.block(n, both @ w[p + "eh_proj.weight"].T, attend), w[p + "shared_head.norm.weight"], eps)
        target = torch.where(doc[:, k + 1:S + k + 1] == attend, tokens[:, k + 1:S + k + 1], oracle.IGNORE)
        logits = h @ w["lm_head.weight"].T
        out.append(torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), ignore_index=oracle.IGNORE))
    return out


def write_steps(out, seed=1234):
    c, bias_mean, _, _ = CASES["v3-softmax"]
    depth = c["num_nextn_predict_layers"]
    params = oracle.make_parameters(c, seed, bias_mean)
    bias = {name: value for name, value in params.items() if name.endswith("correction_bias")}
    leaves = {name: value.clone().requires_grad_() for name, value in params.items() if name not in bias}
    gen = torch.Generator().manual_seed(seed + 2)
    tokens = torch.randint(2, c["vocab_size"], (STEPS, B, S + 1 + depth), generator=gen)
    doc = (torch.rand(tokens.shape, generator=gen) < 0.15).long().cumsum(-1)         # documents end at random
    decayed = [p for name, p in leaves.items() if not name.endswith("norm.weight")]
    others = [p for name, p in leaves.items() if name.endswith("norm.weight")]
    adamw = torch.optim.AdamW([dict(params=decayed, weight_decay=DECAY), dict(params=others, weight_decay=0.0)], betas=(BETA1, BETA2), eps=EPS)
    rows = {}

    def note(name, value):
        rows.setdefault(name, []).append(torch.as_tensor(value))

    for step in range(1, STEPS + 1):
        model = oracle.Model(c, {**leaves, **bias})
        each = forward(model, tokens[step - 1], doc[step - 1])
        balance = sum(model.balance)
        adamw.zero_grad(set_to_none=False)
        (each[0] + LAMBDA / depth * sum(each[1:]) + ALPHA * balance).backward()
        # What minke clips: the norm of the whole gradient.
        norm = torch.sqrt(sum(p.grad.pow(2).sum() for p in leaves.values() if p.grad is not None))
        for p in leaves.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad * min(1.0, CLIP / float(norm))
        for group in adamw.param_groups:
            group["lr"] = learning_rate(step)
        adamw.step()
        note("learning_rate", learning_rate(step)), note("balance", balance.detach()), note("gradient_norm", norm)
        note("loss", torch.stack(each).detach())
        for n, (_, _, count) in model.routes.items():
            name = f"model.layers.{n}.mlp.gate.e_score_correction_bias"
            bias[name] = bias[name] + GAMMA * torch.sign(count.double().mean() - count)
            note(f"bias.{n}", bias[name]), note(f"counts.{n}", count)
    golden = {"tokens": oracle.as_i32(tokens), "documents": oracle.as_i32(doc)}
    for name, values in rows.items():
        golden[name] = (oracle.as_i32 if name.startswith("counts") else oracle.as_f32)(torch.stack(values))
    for name, p in leaves.items():
        golden["final." + name] = oracle.as_f32(p)
    os.makedirs(out, exist_ok=True)
    oracle.save_safetensors(f"{out}/steps.safetensors", golden)
    print("steps: loss", [round(float(x[0]), 5) for x in rows["loss"]], "norm", [round(float(x), 3) for x in rows["gradient_norm"]])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    oracle.CASES.update(CASES)
    for name in sys.argv[2:] or [*CASES, "v3-softmax-steps"]:
        out = f"{sys.argv[1]}/{name}"
        write_steps(out) if name.endswith("-steps") else oracle.write_case(out, name)

"""Useful tokens per second of one training step: ours against transformers' padded loop.

    python bench/kernels.py [--model 25m|100m] [--tuner lora|full] [--rounds 5] [--profile]

The peer does what transformers.Trainer does inside a step: pad a batch to its longest row, full
logits, mean loss over the trained tokens, PEFT adapters, the model's own attention (SDPA). Lengths
are drawn as in the measurements of Alpaca-like chats: log-normal, prompt about 120 and answer about
180 tokens, at most 1024. Both run interleaved in this process on the same batches; the last line
is one JSON object. For peak memory and whole programs see bench/train.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch

SHAPES = {
    "25m": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "head_dim": 64,
            "num_attention_heads": 6, "num_key_value_heads": 2},
    "100m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 10, "head_dim": 64,
             "num_attention_heads": 12, "num_key_value_heads": 4},
}  # fmt: skip


def rows(count: int, seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """(ids, length of the prompt) of `count` chats."""
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        prompt = int(np.clip(generator.lognormal(np.log(100), 0.6), 8, 600))
        answer = int(np.clip(generator.lognormal(np.log(140), 0.7), 8, 1024 - prompt))
        drawn.append((generator.integers(3, 32000, prompt + answer), prompt))
    return drawn


def packed(chats):
    from tunesmith.types import Batch, Segments

    lengths = np.array([len(ids) for ids, _ in chats], np.int32)
    weights = [np.arange(len(ids)) >= prompt for ids, prompt in chats]
    none = np.zeros(len(chats), np.int32)
    return Batch(
        torch.tensor(np.concatenate([ids for ids, _ in chats]))[None].int(),
        torch.tensor(np.concatenate(weights))[None].float(),
        torch.tensor(np.concatenate([np.arange(n) for n in lengths]))[None],
        Segments(np.cumsum(lengths, dtype=np.int32) - lengths, lengths, none - 1, none),
        {"tokens": float(sum(w.sum() for w in weights))},
    )


def padded(chats):
    longest = max(len(ids) for ids, _ in chats)
    ids = torch.zeros(len(chats), longest, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (tokens, prompt) in enumerate(chats):
        n = len(tokens)
        ids[row, :n] = torch.tensor(tokens)
        labels[row, prompt:n] = ids[row, prompt:n]
        mask[row, :n] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def build(shape: str, family: str, dtype):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family, vocab_size=32000, tie_word_embeddings=True, max_position_embeddings=2048,
        **SHAPES[shape],
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def ours(args, dtype):
    from tunesmith.models.language_model import LanguageModel
    from tunesmith.tuners.full import FullConfig, FullTuner
    from tunesmith.tuners.lora import LoraConfig, LoraTuner

    model = LanguageModel(build(args.model, args.family, dtype), kernels=args.kernels)
    parts = (LoraTuner, LoraConfig(r=8)) if args.tuner == "lora" else (FullTuner, FullConfig())
    tuner = parts[0].build(parts[1])
    tuner.apply(model)
    optimizer = torch.optim.AdamW(tuner.parameter_groups(model, 0.0), lr=1e-4)
    print("notes:", model.notes)

    def step(chats) -> float:
        batch = packed(chats)
        out = model(batch)
        loss = -(out.logprobs_S * out.weights_S).sum() / batch.units["tokens"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def theirs(args, dtype):
    model = build(args.model, args.family, dtype)
    if args.tuner == "lora":
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    model.train()

    def step(chats) -> float:
        loss = model(**padded(chats)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="25m")
    parser.add_argument("--family", default="qwen3")
    parser.add_argument("--tuner", choices=("lora", "full"), default="lora")
    parser.add_argument("--kernels", default="fused")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds (busy machines)")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    clock = time.process_time if args.cpu_time else time.perf_counter
    chats = rows(args.batch * (args.rounds + 1))
    steps = {"ours": ours(args, dtype)}
    if not args.only_ours:
        steps["padded loop"] = theirs(args, dtype)
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    losses = {name: step(chats[-args.batch :]) for name, step in steps.items()}  # warm-up
    print("first losses", losses)
    if args.profile:
        profile(steps["ours"], chats[: args.batch])
        return
    for index in range(args.rounds):
        chosen = chats[index * args.batch : (index + 1) * args.batch]
        tokens = sum(len(ids) for ids, _ in chosen)
        for name, step in steps.items():
            start = clock()
            step(chosen)
            speeds[name].append(tokens / (clock() - start))
        print(index, {name: round(values[-1]) for name, values in speeds.items()})
    report(args, speeds, losses)


def report(args, speeds, losses) -> None:
    medians = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    ratios = [a / b for a, b in zip(speeds["ours"], speeds.get("padded loop", []), strict=False)]
    found = {"speed": round(statistics.median(ratios), 3)} if ratios else {}
    own = medians.pop("ours")
    result = {"bench": "kernels", "model": args.model, "tuner": args.tuner, "dtype": args.dtype,
              "ratios": found, "ours": own, "peers": medians, "losses": losses}  # fmt: skip
    print(json.dumps(result))


def profile(step, chats) -> None:
    from torch.profiler import ProfilerActivity, profile as record

    with record(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(3):
            step(chats)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))


if __name__ == "__main__":
    main()

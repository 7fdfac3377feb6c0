"""Decoding speed: tunesmith's engine beside transformers.generate and its continuous batching.

    python bench/decode.py [--quick] [--size 25m] [--cases 1,16] [--rounds 3]
                           [--peers transformers,continuous] [--save NAME]

Same random model in float32, same prompts, greedy, answers of given lengths, fresh processes that
take turns. `16` are sixteen requests at once with prompts of 8 to 400 and answers of 16 to 160
tokens; transformers.generate gets them padded on the left in one batch and stops when the longest
is done, its continuous batching gets them as they are, with room for all, and makes answers of
the mean length (it has one length a call). Rates count wanted answer tokens over the time from the
first submission to the last token, after a warm-up of the same kind. `first` is the median time to
a request's first token, where the peer tells it. Tokens must be those of transformers.generate
wherever its two best logits lie more than 1e-4 apart, or the script fails. The last line is one
JSON object: {"bench", "ratios", "ours", "peers"}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GAP = 1e-4
"""Below it two tokens are equally good in float32."""


def main() -> None:
    options = parse()
    if options.child:
        child(options)
        return
    from train_material import write_model
    from tunesmith import platform

    cap = platform.probe().isa_cap  # instructions this CPU has no right to, for all alike
    os.environ.update({"ONEDNN_MAX_CPU_ISA": cap} if cap else {})
    results = {}
    with tempfile.TemporaryDirectory(prefix="bench-decode-") as folder:
        write_model(Path(folder), options.size)
        for case in options.cases.split(","):
            results[case] = run_case(folder, case, options)
    summary = summarise(results, options)
    if options.save:
        save(HERE / "results" / options.save, results, summary)
    print(json.dumps(summary))
    wrong = {case: found["wrong"] for case, found in results.items() if found["wrong"]}
    if wrong:
        sys.exit(f"other tokens than transformers.generate: {wrong}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--size", default="25m", help="of bench/train_material.py")
    parser.add_argument("--cases", default="1,16", help="requests at once")
    parser.add_argument("--rounds", type=int, default=3, help="alternations")
    parser.add_argument("--peers", default="transformers,continuous")
    parser.add_argument("--save", default="", help="name of a report in bench/results/")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    return options


def material(case: str) -> list[tuple[list[int], int]]:
    """(prompt, tokens of the answer) of each request; the same everywhere."""
    import numpy as np

    draw = np.random.default_rng(0)
    count = int(case)
    if count == 1:
        return [(draw.integers(10, 32000, 64).tolist(), 128)]
    prompts, answers = draw.integers(8, 400, count), draw.integers(16, 160, count)
    return [
        (draw.integers(10, 32000, length).tolist(), int(answer))
        for length, answer in zip(prompts, answers, strict=True)
    ]


# ------------------------------------------------------------ one process


def child(options: argparse.Namespace) -> None:
    """Answers once to warm up and once by the clock; prints what it found."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    hf = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    requests = material(options.cases)
    answer = {"tunesmith": ours, "transformers": padded, "continuous": continuous}[options.child]
    run = answer(hf, requests)
    run([(prompt, min(8, length)) for prompt, length in requests])
    start = time.perf_counter()
    answers, firsts = run(requests)
    seconds = time.perf_counter() - start
    load = os.getloadavg()[0]
    found = {"seconds": seconds, "load": load, "answers": answers}
    if firsts:
        found["first_s"] = statistics.median(first - start for first in firsts)
    print(json.dumps(found))


def ours(hf: Any, requests: list) -> Any:
    from tunesmith.generation.torch import TorchGenerator
    from tunesmith.types import Request, Sampling

    generator = TorchGenerator(hf)
    count = iter(range(10**6))

    def run(requests: list) -> tuple[list, list[float]]:
        names = [f"{next(count)}" for _ in requests]
        generator._engine.prefixes.forget()  # the warm-up saw the same prompts
        for name, (prompt, length) in zip(names, requests, strict=True):
            generator.submit(
                Request(name, tuple(prompt), Sampling(max_tokens=length, logprob=False))
            )
        answers: dict[str, list[int]] = {name: [] for name in names}
        firsts: dict[str, float] = {}
        left = len(names)
        while left:
            for event in generator.step():
                firsts.setdefault(event.id, time.perf_counter())
                answers[event.id].append(event.token)
                left -= event.finish_reason is not None
        return list(answers.values()), list(firsts.values())

    return run


def padded(hf: Any, requests: list) -> Any:
    """transformers.generate over one batch, padded on the left."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    times: list[float] = []

    class Clock(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            times.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool)

    def run(requests: list) -> tuple[list, list[float]]:
        longest = max(len(prompt) for prompt, _ in requests)
        rows = [[0] * (longest - len(prompt)) + prompt for prompt, _ in requests]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in requests]
        times.clear()
        out = hf.generate(
            torch.tensor(rows),
            attention_mask=torch.tensor(mask),
            max_new_tokens=max(length for _, length in requests),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([Clock()]),
        )
        answers = [
            row[longest : longest + n].tolist() for row, (_, n) in zip(out, requests, strict=True)
        ]
        return answers, [times[0]] * len(requests)

    return run


def continuous(hf: Any, requests: list) -> Any:
    """transformers' continuous batching. All answers of a call have one length there: the mean of
    those wanted, so that it makes as many tokens; they are counted as made."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    def run(requests: list) -> tuple[list, list[float]]:
        mean = round(statistics.mean(length for _, length in requests))
        config = GenerationConfig(
            max_new_tokens=mean, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        # left to itself it takes nine tenths of the free memory
        cache = ContinuousBatchingConfig(page_size=32, num_blocks=512, max_batch_tokens=512)
        found = hf.generate_batch(
            [prompt for prompt, _ in requests],
            generation_config=config,
            continuous_batching_config=cache,
            progress_bar=False,
        )
        outputs = sorted(found.values(), key=lambda one: int(one.request_id.split("_")[-1]))
        return [list(one.generated_tokens) for one in outputs], []

    return run


# ------------------------------------------------------------ all processes


def run_case(folder: str, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of one case."""
    wanted = sum(length for _, length in material(case))
    print(f"\n{options.size}, {case} at once, {wanted} tokens", flush=True)
    contestants = ["tunesmith", *options.peers.split(",")]
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in contestants}
    for turn in range(options.rounds):
        at = turn % len(contestants)
        for who in contestants[at:] + contestants[:at]:
            command = [sys.executable, __file__, "--child", who, "--model", folder]
            done = subprocess.run([*command, "--cases", case], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{who} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            tokens = sum(map(len, found["answers"]))
            found["tokens_per_second"] = tokens / found["seconds"]
            runs[who].append(found)
            first = f"  first {found['first_s'] * 1000:6.0f} ms" if "first_s" in found else ""
            print(f"  {turn + 1} {who:13} {found['tokens_per_second']:7.1f} tok/s{first}"
                  f"  load {found['load']:.1f}", flush=True)  # fmt: skip
    answers = {who: each[0]["answers"] for who, each in runs.items()}
    wrong = differing(folder, case, answers) if "transformers" in answers else []
    ratios = {}
    for who in contestants[1:]:
        pairs = zip(runs["tunesmith"], runs[who], strict=True)
        each = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs]
        ratios[who] = {"speed": statistics.median(each), "speed_min": min(each),
                       "speed_max": max(each)}  # fmt: skip
        print(f"  = {who}: {ratios[who]['speed']:.2f}x its speed "
              f"({min(each):.2f} to {max(each):.2f})", flush=True)  # fmt: skip
    numbers = {who: medians(each) for who, each in runs.items()}
    for each in runs.values():
        for run in each:
            del run["answers"]
    return {"ratios": ratios, "medians": numbers, "wrong": wrong, "runs": runs}


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    keys = [key for key in ("tokens_per_second", "first_s", "load") if key in runs[0]]
    return {key: statistics.median(run[key] for run in runs) for key in keys}


def differing(folder: str, case: str, answers: dict[str, list[list[int]]]) -> list[str]:
    """Where our first other token than transformers.generate's is no tie."""
    import torch
    from transformers import AutoModelForCausalLM

    hf, wrong, ties = None, [], 0
    pairs = zip(material(case), answers["tunesmith"], answers["transformers"], strict=True)
    for at, ((prompt, _), mine, theirs) in enumerate(pairs):
        if mine == theirs:
            continue
        first = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
        hf = hf or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = hf(torch.tensor([prompt + theirs[:first]])).logits[0, -1]
        best = logits.topk(2)
        tied = float(best.values[0] - best.values[1]) < GAP
        near = {mine[first], theirs[first]} <= set(best.indices.tolist())
        ties += tied and near
        if not (tied and near):
            wrong.append(f"request {at} at token {first}")
    same = sum(a == b for a, b in zip(answers["tunesmith"], answers["transformers"], strict=True))
    print(f"  = {same} of {len(answers['tunesmith'])} answers alike, {ties} part at a tie")
    return wrong


def summarise(results: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The one JSON object of the last line."""
    return {
        "bench": "decode",
        "ratios": {case: found["ratios"] for case, found in results.items()},
        "ours": {case: found["medians"]["tunesmith"] for case, found in results.items()},
        "peers": {
            who: {case: found["medians"][who] for case, found in results.items()}
            for who in options.peers.split(",")
        },
    }


def save(path: Path, results: dict[str, Any], summary: dict[str, Any]) -> None:
    """Writes all numbers, with versions and CPU model."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    machine = {
        "cpu": cpu[:1],
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
    }
    for package in ("tunesmith", "torch", "transformers"):
        machine[package] = metadata.version(package)
    path.parent.mkdir(exist_ok=True)
    whole = {"machine": machine, "summary": summary, "results": results}
    path.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()

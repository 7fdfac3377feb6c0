"""DPO with LoRA: `tunesmith train` beside TRL's DPOTrainer.

    python bench/dpo.py [--size 25m] [--rounds 3] [--steps 10] [--batch 4] [--save NAME]

Same random model, same pairs in the same order, same hyper-parameters, fresh processes in turn. The
rate is pairs per second from the first thing a trainer does with the loaded model to its last
update: ours includes the reference, which is computed before the first update; TRL's computes it at
every step. Peak memory is what the kernel says of the process. Both begin with the same adapter
(ours, written before the contest), so the losses of every step must agree, and the first be log 2.
The machine's load is noted before each process: ratios of a busy machine are printed and never
kept. The last line is one JSON object: {"bench", "ratios",
"load", "ours", "peers"}. With --gate the exit code is 6 where we are not 3 times as fast in at most
half the memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from train import HERE, spent
from train_material import ROLES, SPECIAL, VOCABULARY, long_lengths, write_model

FIRST, SAME = 1e-6, 5e-5
"""Losses of the same step differ by at most so much, relatively. TRL adds an answer's two hundred
log-probabilities in float32: −2,300 nats are right to 2e-4, a loss near log 2 to 1e-5, and its
largest error of some steps is two or three times that (float64 sums of its own numbers: 1e-6). That
all else is the same is shown in float64, to 1e-9, by tests/parity."""


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--peer":
        peer(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="25m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4, help="pairs in a step")
    parser.add_argument("--save", default="", help="name of a report in bench/results/")
    parser.add_argument("--gate", action="store_true", help="exit 6 below 3 times TRL's rate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-dpo-") as folder:
        summary = contest(Path(folder), options)
    if options.save and summary["load"]["quiet"]:
        path = HERE / "results" / f"{options.save}.json"
        path.write_text(json.dumps(summary, indent=1) + "\n")
    elif options.save:
        print(f"not kept: load {summary['load']['most']:.1f} on {os.cpu_count()} cores")
    print(json.dumps(summary))
    ratios = summary["ratios"]
    if options.gate and (ratios["speed"] < 3 or ratios["memory"] > 0.5):
        sys.exit(6)


def contest(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    case = prepare(folder, options)
    runs: dict[str, list[dict[str, float]]] = {"tunesmith": [], "trl": []}
    for turn in range(options.rounds):
        for who in ("tunesmith", "trl") if turn % 2 == 0 else ("trl", "tunesmith"):
            run = ours if who == "tunesmith" else theirs
            load = os.getloadavg()[0]
            found = run(case, folder / f"{who}-{turn}") | {"load_before": load}
            assert math.isclose(found["losses"][0], math.log(2), rel_tol=FIRST), found
            runs[who].append(found)
            numbers = f"{found['pairs_per_second']:6.2f} pairs/s  {found['peak_gb']:5.2f} GB"
            told = f"last loss {found['losses'][-1]:.5f}  load before {load:.1f}"
            print(f"{turn + 1} {who:9} {numbers}  {told}", flush=True)
    apart = furthest([run["losses"] for each in runs.values() for run in each])
    print(f"losses of the same step are at most {apart:.1e} apart")
    assert apart < SAME, f"other numbers were computed: {runs}"
    pairs = list(zip(runs["tunesmith"], runs["trl"], strict=True))
    faster = [a["pairs_per_second"] / b["pairs_per_second"] for a, b in pairs]
    memory = [a["peak_gb"] / b["peak_gb"] for a, b in pairs]
    ratios = {"speed": statistics.median(faster), "speed_min": min(faster),
              "speed_max": max(faster), "memory": statistics.median(memory)}  # fmt: skip
    most = max(run["load_before"] for each in runs.values() for run in each)
    # Our own last process still counts in the minute's mean.
    load = {"most": most, "quiet": most <= (os.cpu_count() or 1) + 1}
    return {"bench": "dpo", "ratios": ratios, "losses_apart": apart, "load": load,
            "ours": runs["tunesmith"], "peers": runs["trl"]}  # fmt: skip


def furthest(losses: list[list[float]]) -> float:
    """The largest relative difference of the losses of one step; all runs have the same steps."""
    steps = zip(*losses, strict=True)
    return max((max(step) - min(step)) / min(step) for step in steps)


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Writes the model, pairs as text (for us) and as ids (for TRL)."""
    model = folder / "model"
    model.mkdir()
    write_model(model, options.size)
    rng = np.random.default_rng(0)
    first = len(SPECIAL) + len(ROLES) + 1
    words = lambda n: rng.integers(first, VOCABULARY, n)
    text = lambda ids: " ".join(f"w{i - first}" for i in ids)
    rows, tokens = [], []
    for _ in range(options.steps * options.batch):
        asked, answered = long_lengths(rng)
        prompt, chosen, rejected = words(asked), words(answered), words(long_lengths(rng)[1])
        rows.append({"prompt": text(prompt), "chosen": text(chosen), "rejected": text(rejected)})
        tokens.append(
            {
                "prompt_ids": [1, 4, *prompt.tolist(), 2, 1, 5],
                "chosen_ids": [*chosen.tolist(), 2],
                "rejected_ids": [*rejected.tolist(), 2],
            }
        )
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tokens.json").write_text(json.dumps(tokens))
    case = {"model": str(model), "pairs": str(folder / "pairs.jsonl"),
            "tokens": str(folder / "tokens.json"), "steps": options.steps,
            "batch": options.batch, "learning_rate": 1e-4}  # fmt: skip
    # The adapter that our seed draws, in PEFT's format: a run that learns nothing writes it down.
    ours({**case, "steps": 1, "learning_rate": 0.0}, folder / "start")
    return case | {"adapter": str(folder / "start" / "run" / "final")}


def ours(case: dict[str, Any], out: Path) -> dict[str, Any]:
    """`tunesmith train` through its command line."""
    recipe = {
        "model": {"path": case["model"]},
        "stage": {"kind": "dpo", "beta": 0.1},
        "tuner": {"kind": "lora", "r": 8, "lora_alpha": 16},
        "data": {"train": case["pairs"], "max_length": 2048, "shuffle": False},
        "train": {"max_steps": case["steps"], "per_device_train_batch_size": case["batch"],
                  "dtype": "float32", "logging_steps": 1, "save_steps": "no"},
        "optim": {"learning_rate": case["learning_rate"], "lr_scheduler_type": "linear",
                  "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0},
        "output": {"dir": str(out), "name": "run"},
    }  # fmt: skip
    out.mkdir()
    (out / "recipe.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "tunesmith.cli.main", "train", str(out / "recipe.yaml")]
    usage = spent([*command, "--json"], out, {"TUNESMITH_HOME": str(out / "home")})
    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"loss"' in line]
    return measured(case, usage, steps[-1]["elapsed_s"], [step["loss"] for step in steps])


def theirs(case: dict[str, Any], out: Path) -> dict[str, Any]:
    """TRL's DPOTrainer in a process of its own."""
    out.mkdir()
    (out / "case.json").write_text(json.dumps({**case, "out": str(out / "run")}))
    command = [sys.executable, __file__, "--peer", str(out / "case.json"), str(out / "result.json")]
    usage = spent(command, out, {})
    found = json.loads((out / "result.json").read_text())
    return measured(case, usage, found["seconds"], found["losses"])


def measured(case: dict[str, Any], usage: dict, seconds: float, losses: list[float]) -> dict:
    pairs = case["steps"] * case["batch"]
    return {"pairs_per_second": pairs / seconds, "peak_gb": usage["peak_gb"],
            "losses": losses}  # fmt: skip


def peer(case_file: Path, result_file: Path) -> None:
    from datasets import Dataset
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from train_peers import arguments, lora, recording

    case = json.loads(case_file.read_text())
    case |= {"tuner": "lora", "dtype": "float32", "save_steps": 10**9}

    class Tokenised(recording(DPOTrainer)):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset  # it is

    trainer = Tokenised(
        model=AutoModelForCausalLM.from_pretrained(case["model"]),
        args=DPOConfig(**arguments(case, case["out"]), beta=0.1, max_length=None),
        train_dataset=Dataset.from_list(json.loads(Path(case["tokens"]).read_text())),
        processing_class=AutoTokenizer.from_pretrained(case["model"]),
        peft_config=lora(case),
    )
    adapter = load_file(Path(case["adapter"]) / "adapter_model.safetensors")
    told = set_peft_model_state_dict(trainer.model, adapter)
    assert not told.unexpected_keys, told.unexpected_keys
    left = [name for name in told.missing_keys if "lora_" in name]
    assert not left, f"the adapter does not say what these are: {left}"
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    losses = [float(loss) for loss in trainer.losses]
    result_file.write_text(json.dumps({"seconds": seconds, "losses": losses}))


if __name__ == "__main__":
    main()

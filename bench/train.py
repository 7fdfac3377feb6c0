"""Training speed and memory: `tunesmith train` beside transformers.Trainer and TRL's SFTTrainer.

    python bench/train.py [--quick] [--cases 25m-lora-float32,…] [--rounds 5] [--peers trl]
                          [--lengths long]

Same random model, same chats in the same order, same hyper-parameters, fresh processes that take
turns. Rates are useful (non-pad) tokens per second, counted by this script from the material (of a
peer that packs, whose steps are others, from its batches), over the steps after the warm-up,
logging and one checkpoint included. Peak memory is what the kernel
says of the process. In float32 the loss of the first step must agree to 1e-5, or the script fails.
The last line is one JSON object: {"bench", "ratios", "ours", "peers"}.
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

from train_material import LENGTHS, flops, write_chats, write_model

HERE = Path(__file__).resolve().parent
CASES = ("25m-lora-float32", "25m-full-float32", "100m-lora-float32",
         "25m-lora-bfloat16", "25m-full-bfloat16", "100m-lora-bfloat16")  # fmt: skip
TOLERANCE = 1e-5
"""Relative difference of the first loss in float32 that still is the same computation."""

GEMM = """
import sys, time, torch
a = torch.randn(2048, 2048).to(getattr(torch, sys.argv[1])); b = a.clone(); best = 0.0
for _ in range(12):
    start = time.perf_counter(); a @ b
    best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
print(best)
"""


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        results = [
            result
            for case in options.cases.split(",")
            if (result := run_case(Path(folder), case, options)) is not None
        ]
    summary = summarise(results)
    if options.save:
        save(HERE / "results" / options.save, results, summary)
    print(json.dumps(summary))
    wrong = [r["case"] for r in results if not r["same_loss"]]
    if wrong:
        sys.exit(f"the first loss differs by more than {TOLERANCE} from a peer's: {wrong}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds of twelve steps, one case")
    parser.add_argument("--cases", default="", help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5, help="alternations")
    parser.add_argument("--peers", default="transformers,trl,trl-packing")
    parser.add_argument("--lengths", default="alpaca", choices=LENGTHS, help="of the chats")
    parser.add_argument("--steps", type=int, default=26)
    parser.add_argument("--warmup", type=int, default=6, help="first steps left out of the rate")
    parser.add_argument("--batch", type=int, default=8, help="examples in a step")
    parser.add_argument("--set", default="", help="more settings for ours: 'key=value key=value'")
    parser.add_argument("--save", default="", help="name of a report in bench/results/")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps, options.warmup = min(options.rounds, 2), 12, 4
    options.cases = options.cases or (CASES[0] if options.quick else ",".join(CASES))
    return options


# ------------------------------------------------------------ one case


def run_case(folder: Path, name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """All rounds of one case; None if this machine can't multiply in its dtype."""
    size, tuner, dtype = name.split("-")
    rate = gemm_rate(dtype)
    if rate is None:
        print(f"{name}: left out, a {dtype} matrix product fails on this machine", flush=True)
        return None
    case, material = prepare(folder, size, tuner, dtype, options)
    print(
        f"\n{name}: {options.rounds} rounds of {options.steps} steps of {options.batch} chats",
        flush=True,
    )
    contestants = ["tunesmith", *options.peers.split(",")]
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in contestants}
    for turn in range(options.rounds):
        order = contestants[turn % len(contestants) :] + contestants[: turn % len(contestants)]
        for who in order:
            out = folder / f"{name}-{who}-{turn}"
            done = ours(case, out, options) if who == "tunesmith" else peer(who, case, out)
            runs[who].append(measure(done, material, options))
            print(f"  {turn + 1} {describe(who, runs[who][-1])}", flush=True)
    lengths, trained = timed(material["lengths"], options), timed(material["trained"], options)
    work, tokens = flops(size, tuner, lengths, sum(trained)), sum(lengths)
    for run in (run for each in runs.values() for run in each):
        run["gemm_share"] = work / tokens * run["tokens_per_second"] / rate
    return report(name, runs, rate, options)


def prepare(folder: Path, size: str, tuner: str, dtype: str, options: argparse.Namespace):
    """Writes model and chats once; returns the case as both sides read it, and the lengths."""
    model, data = folder / size, folder / "data"
    if not model.exists():
        model.mkdir()
        write_model(model, size)
    data.mkdir(exist_ok=True)
    material = write_chats(data, options.steps * options.batch, options.lengths)
    case = {
        "model": str(model), "tuner": tuner, "dtype": dtype,
        "chats": str(data / "chats.jsonl"), "tokens": str(data / "tokens.json"),
        "steps": options.steps, "batch": options.batch, "learning_rate": 1e-4,
        "save_steps": (options.steps + options.warmup) // 2,
    }  # fmt: skip
    return case, material


def timed(values: list[int], options: argparse.Namespace) -> list[int]:
    """The rows of the steps that count."""
    return values[options.warmup * options.batch :]


def ours(case: dict[str, Any], out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`tunesmith train` through its command line; times are those of its metrics lines."""
    tuner = {
        "kind": "lora",
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
    }
    recipe = {
        "model": {"path": case["model"]},
        "stage": "sft",
        "tuner": tuner if case["tuner"] == "lora" else "full",
        "data": {"train": case["chats"], "max_length": 1024, "shuffle": False},
        "train": {
            "max_steps": case["steps"], "per_device_train_batch_size": case["batch"],
            "gradient_accumulation_steps": 1, "dtype": case["dtype"], "logging_steps": 1,
            "save_steps": case["save_steps"], "save_total_limit": 2,
        },
        "optim": {
            "learning_rate": case["learning_rate"], "lr_scheduler_type": "linear",
            "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0,
        },
        "output": {"dir": str(out), "name": "run"},
    }  # fmt: skip
    out.mkdir()
    (out / "recipe.yaml").write_text(json.dumps(recipe))
    command = [
        sys.executable,
        "-m",
        "tunesmith.cli.main",
        "train",
        str(out / "recipe.yaml"),
        "--json",
    ]
    usage = spent(command + options.set.split(), out, {"TUNESMITH_HOME": str(out.parent / "home")})
    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"loss"' in line]
    return {
        **usage,
        "ends": [step["elapsed_s"] for step in steps],
        "losses": [step["loss"] for step in steps],
    }


def peer(who: str, case: dict[str, Any], out: Path) -> dict[str, Any]:
    """One peer on the same ids."""
    out.mkdir()
    case_file, result = out / "case.json", out / "result.json"
    case_file.write_text(json.dumps({**case, "out": str(out / "run")}))
    script = str(HERE / "train_peers.py")
    usage = spent([sys.executable, script, who, str(case_file), str(result)], out, {})
    found = json.loads(result.read_text())
    return {**usage, **found, "packed": who.endswith("-packing")}


def spent(command: list[str], out: Path, extra: dict[str, str]) -> dict[str, float]:
    """Runs a fresh process to its end; its wall time in seconds and peak memory in GB."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **extra}
    start = time.perf_counter()
    with (out / "output.txt").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(out / 'output.txt').read_text()[-3000:]}")
    return {"wall_s": time.perf_counter() - start, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def measure(
    done: dict[str, Any], material: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Useful tokens per second of the steps after the warm-up.

    A peer that packs has other steps than ours, hence counts for itself.
    """
    warmup, ends = options.warmup, done["ends"]
    tokens = sum(timed(material["lengths"], options))
    if done.get("packed"):
        tokens = sum(done["tokens"][warmup:])
    else:
        ends = ends[: options.steps]
    return {
        "tokens_per_second": tokens / (ends[-1] - ends[warmup - 1]),
        "peak_gb": done["peak_gb"],
        "wall_s": done["wall_s"],
        "losses": done["losses"][:5],
    }


def gemm_rate(dtype: str) -> float | None:
    """Measured matrix product rate in FLOP/s, in a child: it may die where bfloat16 is broken."""
    done = subprocess.run([sys.executable, "-c", GEMM, dtype], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


# ------------------------------------------------------------ reports


def describe(who: str, run: dict[str, Any]) -> str:
    losses = " ".join(f"{loss:.5f}" for loss in run["losses"][:3])
    return (f"{who:13} {run['tokens_per_second']:8.0f} tok/s  {run['peak_gb']:5.2f} GB  "
            f"{run['wall_s']:6.1f} s in all  loss {losses}")  # fmt: skip


def report(
    name: str, runs: dict[str, list], rate: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Medians, ratios round by round, and whether the first losses agree; printed too."""
    mine = runs["tunesmith"]
    result: dict[str, Any] = {"case": name, "gemm_gflops": rate / 1e9, "runs": runs, "ratios": {}}
    result["medians"] = {who: medians(each) for who, each in runs.items()}
    for who in options.peers.split(","):
        pairs = list(zip(mine, runs[who], strict=True))
        faster = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs]
        result["ratios"][who] = {
            "speed": statistics.median(faster), "speed_min": min(faster), "speed_max": max(faster),
            "memory": statistics.median(a["peak_gb"] / b["peak_gb"] for a, b in pairs),
        }  # fmt: skip
        spread = result["ratios"][who]
        print(f"  = {who}: {spread['speed']:.2f}x its speed ({spread['speed_min']:.2f} to "
              f"{spread['speed_max']:.2f}), {spread['memory']:.2f}x its memory")  # fmt: skip
    share = result["medians"]["tunesmith"]["gemm_share"]
    print(
        f"  = useful share of the measured {rate / 1e9:.0f} GFLOP/s of matrix products: {share:.0%}"
    )
    same = {who: each for who, each in runs.items() if not who.endswith("-packing")}
    firsts = {who: each[0]["losses"] for who, each in same.items()}
    gaps = [abs(firsts["tunesmith"][0] - other[0]) / other[0] for other in firsts.values()]
    result["first_losses"], result["first_loss_gap"] = firsts, max(gaps)
    result["same_loss"] = "float32" not in name or max(gaps) <= TOLERANCE
    print(f"  = first loss differs by {max(gaps):.1e} at most", flush=True)
    return result


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    keys = ("tokens_per_second", "peak_gb", "wall_s", "gemm_share")
    return {key: statistics.median(run[key] for run in runs) for key in keys}


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The one JSON object of the last line."""
    peers = sorted({who for result in results for who in result["ratios"]})
    return {
        "bench": "train",
        "ratios": {result["case"]: result["ratios"] for result in results},
        "ours": {result["case"]: result["medians"]["tunesmith"] for result in results},
        "peers": {
            who: {result["case"]: result["medians"][who] for result in results} for who in peers
        },
    }


def save(path: Path, results: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Writes the report and all numbers, with versions and CPU model."""
    path.parent.mkdir(exist_ok=True)
    machine = {
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
    }
    for package in ("tunesmith", "torch", "transformers", "peft", "trl", "accelerate"):
        machine[package] = metadata.version(package)
    whole = {"machine": machine, "summary": summary, "results": results}
    path.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    rows = [row(result, who) for result in results for who in result["medians"]]
    gaps = [
        f"- {r['case']}: first loss differs by {r['first_loss_gap']:.1e} at most" for r in results
    ]
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    text = f"# bench/train.py\n\nMedians of alternating runs in fresh processes. {about}.\n\n"
    path.with_suffix(".md").write_text(text + "\n".join([*HEAD, *rows, "", *gaps]) + "\n")


HEAD = (
    "| case | who | tokens/s | peak GB | process s | of GEMM rate | speed of ours | its memory |",
    "|---|---|---|---|---|---|---|---|",
)


def row(result: dict[str, Any], who: str) -> str:
    """One line of the report's table."""
    mine, beside = result["medians"][who], " | "
    if ratio := result["ratios"].get(who):
        spread = f"({ratio['speed_min']:.2f} to {ratio['speed_max']:.2f})"
        beside = f"{ratio['speed']:.2f}× {spread} | {ratio['memory']:.2f}×"
    numbers = f"{mine['tokens_per_second']:.0f} | {mine['peak_gb']:.2f} | {mine['wall_s']:.1f}"
    return f"| {result['case']} | {who} | {numbers} | {mine['gemm_share']:.0%} | {beside} |"


def cpu() -> str:
    """CPU model as the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?"
    )


if __name__ == "__main__":
    main()

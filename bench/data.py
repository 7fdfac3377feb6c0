"""Encoding a chat data set, cold and warm, against the two usual ways.

    python bench/data.py [--data alpaca_data.json] [--tokenizer DIR] [--rows N] [--gate]

Without --data, 52,002 rows are made of the chats that ship with tunesmith; without --tokenizer, the
embedded model's is used.

Peers: a loop of `tokenizer.apply_chat_template` over the rows, and `datasets.Dataset.map` of the
same call with `num_proc=1`. They only tokenise; ours also marks the trained tokens, checks each row
and writes the token store. Every measurement is a fresh process, ours and the peers' in turn; time
runs from the first byte of the file to the last token, imports and tokenizer loading excluded, in
ours the start of its processes included. DIR needs tokenizer.json and a chat template. The last
line is one JSON object; `--gate` exits 6 if cold < 2× the loop or < 3× map, or warm ≥ 1 s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

GATES = {"cold_vs_loop": 2.0, "cold_vs_datasets_map": 3.0}
WARM_SECONDS = 1.0
ROWS = 52_002


def conversations(path: str, rows: int | None):
    """Alpaca rows as lists of messages, as a script of the peers would make them."""
    with open(path, encoding="utf-8") as stream:
        found = json.load(stream)[:rows]
    for row in found:
        if row["output"].strip():
            question = "\n".join(part for part in (row["instruction"], row["input"]) if part)
            yield [
                {"role": "user", "content": question},
                {"role": "assistant", "content": row["output"]},
            ]


def peer_tokenizer(directory: str):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    if tokenizer.chat_template is None:
        raise SystemExit(f"{directory} has no chat template")
    return tokenizer


def loop(arguments) -> dict:
    tokenizer = peer_tokenizer(arguments.tokenizer)
    began = time.perf_counter()
    tokens = 0
    kept = []
    for messages in conversations(arguments.data, arguments.rows):
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        kept.append(ids)
        tokens += len(ids)
    return {"seconds": time.perf_counter() - began, "tokens": tokens, "rows": len(kept)}


def datasets_map(arguments) -> dict:
    import datasets

    tokenizer = peer_tokenizer(arguments.tokenizer)
    datasets.disable_progress_bars()
    began = time.perf_counter()
    rows = [{"messages": m} for m in conversations(arguments.data, arguments.rows)]
    encoded = datasets.Dataset.from_list(rows).map(
        lambda row: {"ids": tokenizer.apply_chat_template(row["messages"], return_dict=False)},
        num_proc=1,
        remove_columns=["messages"],
    )
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": sum(map(len, encoded["ids"])), "rows": len(encoded)}


def ours(arguments) -> dict:
    from tunesmith import recipe as recipes
    from tunesmith.compose import data

    source = {"path": arguments.data}
    if arguments.rows:
        source["max_samples"] = arguments.rows
    changes = [
        "stage=sft",
        f"data.train=[{json.dumps(source)}]",
        "data.on_bad_row=skip",
        "data.max_length=4096",
    ]
    recipe = recipes.load(None, [f"model={arguments.tokenizer}", *changes])
    factory = data.encoder_factory(recipe, Path(arguments.tokenizer))
    stage = factory.build()
    began = time.perf_counter()
    found, _ = data.datasets(recipe, factory, stage)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": int(found.lengths.sum()), "rows": len(found)}


def cpu_seconds() -> float:
    """CPU time of this process and its children, imports included: tells a busy machine apart."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(one.ru_utime + one.ru_stime for one in used), 2)


WAYS = {"ours_cold": ours, "ours_warm": ours, "loop": loop, "datasets_map": datasets_map}


def measure(way: str, home: str) -> dict:
    """One way in a fresh process."""
    environment = {**os.environ, "TUNESMITH_HOME": home, "HF_DATASETS_CACHE": f"{home}/datasets"}
    command = [sys.executable, __file__, *sys.argv[1:], "--only", way]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="Alpaca rows as a JSON array; default: made here")
    parser.add_argument("--tokenizer", help="directory with tokenizer.json; default: builtin:tiny")
    parser.add_argument("--rows", type=int, help="only the first so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gate", action="store_true", help="exit 6 if a gate is missed")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tokenizer is None:
        arguments.tokenizer = str(resources.files("tunesmith.assets") / "tiny")
        sys.argv += ["--tokenizer", arguments.tokenizer]
    if arguments.data is None:
        with tempfile.TemporaryDirectory() as folder:
            arguments.data = write_rows(Path(folder))
            sys.argv += ["--data", arguments.data]
            return run(arguments)
    return run(arguments)


def write_rows(folder: Path) -> str:
    """As many rows as Alpaca has, of about its length, made of the demo's chats."""
    file = resources.files("tunesmith.assets") / "demo" / "train.jsonl"
    chats = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    texts = [m["content"] for chat in chats for m in chat["messages"] if m["role"] != "system"]
    rows = [
        {
            "instruction": f"{number}. {texts[number % len(texts)]}",
            "input": "",
            "output": " ".join(texts[(number * 7 + i) % len(texts)] for i in range(number % 8 + 1)),
        }
        for number in range(ROWS)
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return str(path)


def run(arguments: argparse.Namespace) -> int:
    """All rounds of all ways, or one way in this process."""
    if arguments.only:
        found = WAYS[arguments.only](arguments)
        print(json.dumps({**found, "cpu": cpu_seconds()}))
        return 0
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as home:
            for way in WAYS:
                found = measure(way, home)
                times[way].append(found["seconds"])
                rate = found["tokens"] / found["seconds"]
                print(
                    f"{number} {way:<13} {found['seconds']:7.2f} s  {rate:12,.0f} tokens/s  {found}"
                )
    median = {way: statistics.median(values) for way, values in times.items()}
    tokens = found["tokens"]  # of the last round; all ways have the same rows
    ratios = {
        f"cold_vs_{way}": round(median[way] / median["ours_cold"], 2)
        for way in ("loop", "datasets_map")
    }
    result = {
        "bench": "data",
        "ratios": ratios,
        "ours": {"cold_s": median["ours_cold"], "warm_s": median["ours_warm"]},
        "tokens_per_second": {way: round(tokens / seconds) for way, seconds in median.items()},
        "peers": {way: median[way] for way in ("loop", "datasets_map")},
        "all": times,
    }
    print(json.dumps(result))
    missed = [name for name, least in GATES.items() if ratios[name] < least]
    missed += ["warm"] if median["ours_warm"] >= WARM_SECONDS else []
    if arguments.gate and missed:
        print(f"gates missed: {', '.join(missed)}", file=sys.stderr)
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`tunesmith serve` under load: many streams at once, clients that leave, a full queue, SIGTERM.

    python bench/serve.py [--quick] [--streams 200] [--seconds 60] [--model builtin:tiny]

A server process and this client share the machine. Each of the streams asks one question after the
other until the time is over; one in ten leaves in the middle of an answer. A stream is lost if it
ends without its last chunk and without being told why, and mixed if a chunk has another stream's id
or the answer is another question's. Answers are compared with those the questions got alone; in a
batch a near-tie may fall otherwise, which is counted as `differs` and is no fault.
Then more requests than the queue holds must get 200 or 429, and SIGTERM under load must lose none.
The last line is one JSON object: {"bench", "streams", …}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil

from serve_client import Answer, answer, get

ASKS = ("What is", "Who made", "Where is", "Tell me about")
THINGS = ("the sun", "bread", "the miller", "a river", "the moon", "iron")
QUESTIONS = [f"{ask} {thing}?" for ask in ASKS for thing in THINGS]
LEAVING = 0.1
GROWTH = 1.1
"""So much may memory grow from the second quarter of the time to the last."""


@dataclass
class Tally:
    """What the streams met."""

    ended: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    differs: int = 0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def add(self, found: Answer, question: str, alone: dict[str, str]) -> None:
        self.ended[found.ended] += 1
        self.tokens += found.chunks
        if len(found.ids) > 1 or found.ids & self.ids:
            self.mixed += 1
        self.ids |= found.ids
        if found.ended != "done":
            return
        self.first.append(found.first)
        self.whole.append(found.whole)
        if found.text != alone[question]:
            self.differs += 1
            others = {text for asked, text in alone.items() if asked != question}
            self.mixed += found.text in others and alone[question] not in others


def main() -> None:
    options = parse()
    process, port = start(options)
    try:
        summary = asyncio.run(measure(process, port, options))
    finally:
        process.kill()
    print(json.dumps(summary))
    wrong = {
        k: summary[k] for k in ("lost", "mixed", "unexpected", "lost_at_sigterm") if summary[k]
    }
    if summary["rss_growth"] > GROWTH or summary["exit_code"] != 0:
        wrong |= {"rss_growth": summary["rss_growth"], "exit_code": summary["exit_code"]}
    if wrong:
        sys.exit(f"not as it should be: {wrong}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="ten seconds")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tokens", type=int, default=24, help="longest answer")
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--slots", type=int, default=32)
    options = parser.parse_args()
    if options.quick:
        options.seconds = 10.0
    return options


def start(options: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    """The server in a process of its own, and its port."""
    words = ["serve", options.model, "--port", "0", "--slots", str(options.slots)]
    words += ["--queue", str(options.streams + 50)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith.cli.main", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TUNESMITH_LOG": "warning"},
    )
    for line in process.stderr or ():
        if found := re.search(r"serving http://127\.0\.0\.1:(\d+)", line):
            return process, int(found[1])
    sys.exit("the server did not start")


async def measure(
    process: subprocess.Popen[str], port: int, options: argparse.Namespace
) -> dict[str, Any]:
    ask = {"max_tokens": options.tokens, "temperature": 0}
    solo = {q: await answer(port, q, ask) for q in QUESTIONS}
    if any(found.ended != "done" for found in solo.values()):
        sys.exit("a question asked alone got no answer")
    alone = {q: found.text for q, found in solo.items()}
    memory = Memory(process.pid)
    tally = Tally()
    begun = time.monotonic()
    watcher = asyncio.create_task(memory.watch())
    end = begun + options.seconds
    await asyncio.gather(*(one(port, at, end, ask, alone, tally) for at in range(options.streams)))
    took = time.monotonic() - begun
    watcher.cancel()
    print(f"{options.streams} streams for {took:.0f} s: {dict(tally.ended)}", flush=True)
    burst = await flood(port, options.streams * 2 + 100)
    print(f"a burst of {sum(burst.values())}: {dict(burst)}", flush=True)
    health = await get(port, "/health")
    stopping = await sigterm(process, port, alone, ask)
    print(f"SIGTERM under load: {dict(stopping)}", flush=True)
    return {
        "bench": "serve",
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "streams": options.streams,
        "seconds": round(took, 1),
        "answers": sum(tally.ended.values()),
        "left_by_us": tally.ended["left"],
        "lost": tally.ended["lost"],
        "unexpected": sum(n for e, n in tally.ended.items() if e not in ("done", "left", "lost")),
        "mixed": tally.mixed,
        "differs": tally.differs,
        "tokens_per_second": round(tally.tokens / took, 1),
        "first_token_s": percentiles(tally.first),
        "answer_s": percentiles(tally.whole),
        "rss_mb_by_quarter": memory.quarters,
        "rss_growth": round(memory.growth(), 3),
        "burst": {str(status): count for status, count in sorted(burst.items())},
        "health_after_burst": health,
        "at_sigterm": dict(stopping),
        "lost_at_sigterm": stopping["lost"],
        "exit_code": process.wait(60),
    }


async def one(port: int, at: int, end: float, ask: Any, alone: Any, tally: Tally) -> None:
    """One client: question after question until the end."""
    draws = random.Random(at)
    await asyncio.sleep(draws.random())  # they don't all come in the same millisecond
    while time.monotonic() < end:
        question = draws.choice(QUESTIONS)
        leave = draws.randrange(1, 6) if draws.random() < LEAVING else None
        tally.add(await answer(port, question, ask, leave_after=leave), question, alone)


async def flood(port: int, count: int) -> Counter[int]:
    """Statuses of more requests at once than the queue holds."""
    ask = {"max_tokens": 8}
    asked = (answer(port, "What is iron?", ask, stream=False) for _ in range(count))
    return Counter(found.status for found in await asyncio.gather(*asked))


async def sigterm(process: Any, port: int, alone: dict[str, str], ask: Any) -> Counter[str]:
    """How streams end whose server is told to stop."""
    tasks = [asyncio.create_task(answer(port, question, ask)) for question in QUESTIONS * 2]
    while f"requests_in_hand {len(tasks)}" not in await get(port, "/metrics"):
        if any(task.done() for task in tasks):
            break  # the first are through already: it is load all the same
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    return Counter(found.ended for found in await asyncio.gather(*tasks))


class Memory:
    """Resident memory of the server while it works."""

    def __init__(self, pid: int):
        self.process = psutil.Process(pid)
        self.samples: list[int] = []

    async def watch(self) -> None:
        """A sample every quarter of a second until cancelled."""
        while True:
            self.samples.append(self.process.memory_info().rss)
            await asyncio.sleep(0.25)

    @property
    def quarters(self) -> list[int]:
        """Most in each quarter of the time, in MB."""
        size = max(1, len(self.samples) // 4)
        parts = [self.samples[at * size : (at + 1) * size] for at in range(4)]
        return [round(max(part) / 2**20) for part in parts if part]

    def growth(self) -> float:
        """The last quarter over the second: the first warms up, and a leak never ends."""
        return self.quarters[-1] / self.quarters[1]


def percentiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=20)
    return {"p50": round(cuts[9], 3), "p95": round(cuts[18], 3), "max": round(max(values), 3)}


if __name__ == "__main__":
    main()

"""`tunesmith demo`: the main job end to end in one process, on embedded material, offline."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.errors import GateFailed

app = output.app(
    examples=[
        "tunesmith demo",
        "tunesmith demo --dir demo-runs/",
        "tunesmith demo --json",
    ],
)

RECIPE = "tiny-sft-lora.yaml"
BASE = "builtin:tiny"
TASK = "builtin:demo/test.jsonl"
GAIN = 0.5
"""Exact match must rise by at least this much; measured: see assets/tiny/README.md."""
MAX_TOKENS = 16
SHOWN = 5
"""Examples shown before and after."""
CHAT = ("Hello!", "Who are you?", "你好")


@app.command()
def command(
    dir: Annotated[str, typer.Option(help="Folder of run directories.")] = "runs/",
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Teach the embedded model a small command language, measure it, merge it, talk to it."""
    output.quiet(json)
    clock = Clock()
    result = demo(dir, clock)
    result["seconds"] = clock.seconds | {"total": round(clock.total(), 1)}
    output.result(result, json=json, text=summary(result))
    gate(result["exact_match_before"], result["exact_match_after"], result["exact_match_merged"])


class Clock:
    """Seconds of each phase; says a phase's name when it begins."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, says: str) -> Iterator[None]:
        output.log(f"── {name} · {says}")
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)

    def total(self) -> float:
        return time.perf_counter() - self.start


def demo(root: str, clock: Clock) -> dict[str, Any]:
    """All phases in order.

    Returns:
        run, merged, rows, exact_match_before/after/merged, losses, chat and examples.
    """
    from tunesmith import compose, recipe as recipes
    from tunesmith.cli.progress import Terminal
    from tunesmith.exporting import merge as merging

    with clock.phase("check", "recipe, data and model are found before any work"):
        recipe = recipes.load(recipe_path(), [f"output.dir={root}"])
        found = compose.check(recipe)
        output.log(f"   {found['data']}")
        output.log(f"   {found['steps']} steps, {found['epochs']:.1f} epochs")
    questions, references = task()
    asked = [*questions, *CHAT]
    with clock.phase("before", f"{len(questions)} held-out commands to {BASE}, greedy"):
        before = answers(BASE, asked, root)
        output.log(f"   exact match {share(before, references):.0%}")
    with clock.phase("train", "LoRA on the embedded model"):
        display = Terminal()
        run = compose.train(recipe, display=display)
    with clock.phase("after", "the same commands to the tuned model"):
        after = answers(str(run.path), asked, root)
        output.log(f"   exact match {share(after, references):.0%}")
    with clock.phase("merge", "the adapter into its base: an ordinary model directory"):
        merged = run.path / "merged"
        proof = merging.merge(BASE, run.path / "final", merged)
        baked = answers(str(merged), questions, root)
        output.log(f"   {merged} · exact match {share(baked, references):.0%} · kl {proof.kl:.1e}")
    return {
        "run": str(run.path),
        "merged": str(merged),
        "rows": len(questions),
        "exact_match_before": share(before, references),
        "exact_match_after": share(after, references),
        "exact_match_merged": share(baked, references),
        "losses": display.losses,
        "examples": triples(questions, before, after)[:SHOWN],
        "chat": triples(list(CHAT), before[len(questions) :], after[len(questions) :]),
    }


def recipe_path() -> Path:
    """The shipped recipe that the demo runs."""
    from importlib.resources import files

    return Path(str(files("tunesmith") / "recipes" / RECIPE))


def task() -> tuple[list[str], list[str]]:
    """Questions and reference answers of the held-out rows."""
    from tunesmith.data import read

    rows: list[Any] = [row.value for row in read.rows(TASK)]
    chats = [row["messages"] for row in rows]
    return [chat[0]["content"] for chat in chats], [chat[-1]["content"] for chat in chats]


def answers(spec: str, questions: list[str], root: str) -> list[str]:
    """Greedy answers of a model, all questions in one batch."""
    from tunesmith import compose
    from tunesmith.generation.torch import TorchGenerator
    from tunesmith.types import Conversation, Message, Request, Sampling

    loaded = compose.load(spec, root=root)
    template = loaded.template
    stops = tuple(sorted({*template.stop_ids, loaded.tokenizer.eos_id} - {None}))
    sampling = Sampling(max_tokens=MAX_TOKENS, stop_ids=stops, logprob=False)
    requests = []
    for at, question in enumerate(questions):
        ids = template.prompt_ids(Conversation((Message.of("user", question),)))
        requests.append(Request(str(at), tuple(ids), sampling))
    events = TorchGenerator(loaded.model, loaded.tokenizer).generate(requests)
    return [
        "".join(event.text_delta for event in events[request.id]).strip() for request in requests
    ]


def share(found: list[str], references: list[str]) -> float:
    """Share of references that were answered letter for letter."""
    hits = sum(one == other for one, other in zip(found, references, strict=False))
    return hits / len(references)


def triples(questions: list[str], before: list[str], after: list[str]) -> list[dict[str, str]]:
    names = ("question", "before", "after")
    return [
        dict(zip(names, row, strict=True)) for row in zip(questions, before, after, strict=False)
    ]


def summary(result: dict[str, Any]) -> str:
    """What the demo found, for people."""
    lines = [curve(result["losses"]), ""]
    for title in ("examples", "chat"):
        for row in result[title]:
            before = jsonlib.dumps(row["before"][:48], ensure_ascii=False)
            lines += [
                f"  {row['question']}",
                f"      before {before}",
                f"      after  {row['after']}",
            ]
        lines.append("")
    score = "{exact_match_before:.0%} → {exact_match_after:.0%} (merged {exact_match_merged:.0%})"
    times = " · ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items())
    name = Path(result["run"]).name
    lines += [
        f"exact match on {result['rows']} rows of unseen commands: {score.format(**result)}",
        f"time   {times}",
        f"next   tunesmith chat {name} · tunesmith chat {result['merged']}",
    ]
    return "\n".join(lines)


def curve(losses: list[float], height: int = 8) -> str:
    """The loss as columns of blocks, scaled from zero to its largest value."""
    top = max(losses)
    blocks = " ▁▂▃▄▅▆▇█"
    lines = []
    for level in reversed(range(height)):
        cells = []
        for loss in losses:
            filled = loss / top * height - level
            cells.append(blocks[round(max(0.0, min(1.0, filled)) * 8)] * 2)
        label = f"{top * (level + 1) / height:6.2f}" if level in (0, height - 1) else " " * 6
        lines.append(f"{label} │{''.join(cells)}".rstrip())
    return "\n".join(["  loss", *lines, " " * 7 + "└" + "─" * (2 * len(losses))])


def gate(before: float, after: float, merged: float) -> None:
    """The demo proves itself, or fails.

    Raises:
        GateFailed: G101, the gain is missing; G102, merging lost it.
    """
    if after - before < GAIN:
        raise GateFailed(
            "G101",
            f"exact match went from {before:.0%} to {after:.0%}; at least +{GAIN:.0%} is expected",
            why="fine-tuning did not teach the embedded model its task on this machine",
            fix="tunesmith doctor says what is unusual here; please report its output",
        )
    if merged < after - 0.05:
        raise GateFailed(
            "G102",
            f"exact match is {after:.0%} with the adapter but {merged:.0%} after merging",
            fix="this is a bug in tunesmith; please report it with `tunesmith doctor`",
        )

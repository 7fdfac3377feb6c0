"""A training run on a terminal: facts first, then one row of numbers a log step."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

from tunesmith import __version__
from tunesmith.cli import output
from tunesmith.compose.display import Display

BARS = "▁▂▃▄▅▆▇█"
SPARK = 16
"""Most columns of the loss curve at the end of a row."""
HEADING = (
    f"{'step':>7} {'loss':>9} {'eval':>8} {'lr':>9} {'gnorm':>7} "
    f"{'tok/s':>7} {'mem':>6} {'elapsed':>8} {'left':>7}"
)


class Terminal(Display):
    """Plain lines to stderr: readable live on a TTY and later in a log file."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.eval_loss: float | None = None
        self.headed = False

    def header(self, stage: str) -> None:
        output.log(f"tunesmith {__version__} · {stage}")

    def line(self, topic: str, text: str) -> None:
        output.log(f"{topic:<7} {text}")

    def example(self, ids: list[int], weights: list[float], decode: Any) -> None:
        shown = excerpt(ids, weights)
        text = " … ".join(masked(*part, decode, output.colour(sys.stderr)) for part in shown)
        cut = " …" if sum(len(part) for part, _ in shown) < len(ids) else ""
        output.log(f"{'example':<7} {text}{cut}")

    def metrics(self, line: dict[str, Any]) -> None:
        if "loss" not in line:
            self.eval_loss = line.get("eval_loss", self.eval_loss)
            if "eval_loss" in line:
                text = f"step {line['step']} · eval loss {self.eval_loss:.4f}"
                if "eval_perplexity" in line:
                    text += f" · perplexity {line['eval_perplexity']:.4g}"
                if "eval_rewards/accuracies" in line:
                    text += _ranked(line)
                if "eval_kl/chosen" in line:
                    chosen, rejected = line["eval_kl/chosen"], line["eval_kl/rejected"]
                    text += f" · KL {chosen:+.2f} chosen, {rejected:+.2f} rejected (nats, k1)"
                if "eval_reward" in line:
                    text = f"step {line['step']} · mean reward {line['eval_reward']:.4f} (greedy)"
                self.line("eval", text)
            return
        if not self.headed:
            output.log(HEADING)
            self.headed = True
        # Where answers are rewarded the loss says little: its sign follows the last few answers.
        self.losses.append(line.get("reward", line["loss"]))
        eval_text = f"{self.eval_loss:.4f}" if self.eval_loss is not None else "–"
        rate = _or_dash(output.count, line["tokens_per_second"])
        left, beside = _or_dash(output.duration, line["eta_s"]), _beside(line)
        output.log(
            f"{line['step']:>7} {line['loss']:>9.4f} {eval_text:>8} {line['learning_rate']:>9.1e} "
            f"{line['grad_norm']:>7.2f} {rate:>7} "
            f"{line['memory_gb']:>5.1f}G {output.duration(line['elapsed_s']):>8} "
            f"{left:>7}{beside}{bars(self.losses, len(beside))}"
        )

    def done(self, summary: dict[str, Any]) -> None:
        path = summary["path"]
        for remark in summary.get("remarks", ()):
            self.line("health", remark)
        if summary["state"] == "stopped":
            output.log(f"stopped at step {summary['step']}, saved · go on with:")
            output.log(f"        tunesmith resume {shlex.quote(path.name)}")
            return
        took = summary.get("elapsed_s")
        parts = ["done" if took is None else f"done in {output.duration(took)}"]
        if summary.get("last_eval") is not None:
            parts.append(f"eval loss {summary['first_eval']:.4f} → {summary['last_eval']:.4f}")
        if summary.get("best_step") is not None:
            parts.append(f"best at step {summary['best_step']}")
        output.log(" · ".join([*parts, f"saved {path}/final"]))
        final, name = path / "final", shlex.quote(path.name)
        if (final / "score.safetensors").is_file():
            return  # a reward model does not talk
        merge = f" | tunesmith merge {name} -o DIR"
        adapter = final / "adapter_config.json"
        merges = adapter.is_file() and jsonlib.loads(adapter.read_text())["peft_type"] == "LORA"
        output.log(f"next    tunesmith chat {name} --compare base{merge if merges else ''}")


class JsonLines(Display):
    """Nothing but metrics lines on stdout."""

    def metrics(self, line: dict[str, Any]) -> None:
        sys.stdout.write(jsonlib.dumps(line) + "\n")
        sys.stdout.flush()


def bars(values: list[float], taken: int = 0) -> str:
    """The curve so far, as wide as there is room beside the numbers; without room, nothing."""
    width = output.columns()
    room = SPARK if width is None else min(SPARK, width - len(HEADING) - taken - 4)
    return f"   {sparkline(values, room)}" if room >= SPARK // 4 else ""


def sparkline(values: list[float], width: int) -> str:
    """The last values as bars, scaled to their own range."""
    values = values[-width:]
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / ((high - low) or 1.0)
    return "".join(BARS[round((value - low) * scale)] for value in values)


EXCERPT = 160
"""Tokens of the first example that are shown."""


def excerpt(ids: list[int], weights: list[float]) -> list[tuple[list[int], list[float]]]:
    """The part of an example to show: its beginning, and where training begins if that is later."""
    first = next((i for i, weight in enumerate(weights) if weight), 0)
    if first < EXCERPT * 3 // 4:
        return [(ids[:EXCERPT], weights[:EXCERPT])]
    head, start = EXCERPT // 4, first - EXCERPT // 4
    parts = [(0, head), (start, start + EXCERPT - head)]
    return [(ids[a:b], weights[a:b]) for a, b in parts]


def masked(ids: list[int], weights: list[float], decode: Any, colour: bool) -> str:
    """Text with its trained spans green, or in [[ ]] without colour."""
    before, after = ("\x1b[32m", "\x1b[0m") if colour else ("[[", "]]")
    spans: list[tuple[bool, list[int]]] = []
    for token, weight in zip(ids, weights, strict=True):
        if not spans or spans[-1][0] != (weight != 0):
            spans.append((weight != 0, []))
        spans[-1][1].append(token)
    text = "".join(f"{before}{decode(i)}{after}" if on else decode(i) for on, i in spans)
    return text.replace("\n", "⏎").replace("\r", "␍")


def _or_dash(show: Callable[[float], str], value: float | None) -> str:
    """A number, or a dash while it is not known."""
    return "–" if value is None else show(value)


def _ranked(line: dict[str, Any]) -> str:
    """How many pairs stand the right way round; before DPO's first step none stands any way."""
    if "eval_kl/chosen" in line and line["eval_rewards/chosen"] == line["eval_rewards/rejected"]:
        return " · all pairs tie, the model is its reference"
    if "eval_kl/chosen" in line and line["step"] == 0:
        return ""  # rounding alone ranks them
    return f" · {line['eval_rewards/accuracies']:.0%} of pairs the right way round"


def _beside(line: dict[str, Any]) -> str:
    """The mean reward of sampled answers, or how far pairs are from their reference, in nats."""
    if "kl/chosen" in line:
        return f"  KL {line['kl/chosen']:+.1f} {line['kl/rejected']:+.1f}"
    return f"  reward {line['reward']:.4f}" if "reward" in line else ""

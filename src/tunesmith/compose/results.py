"""What an evaluation leaves in RUN/eval/<name>, and the gates that its metrics have to pass."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith import __version__
from tunesmith.compose.evaluating import Measured
from tunesmith.compose.subject import Subject
from tunesmith.errors import ConfigError, GateFailed
from tunesmith.registry import did_you_mean
from tunesmith.rundir import files

SHORT = {
    "acc": "accuracy",
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
}
"""Names that gates may use where no metric is called so."""


class Gate(NamedTuple):
    """A bound that a metric has to keep."""

    metric: str
    bound: float
    least: bool
    """Whether the bound is the least it may be (--min), or the most (--max)."""

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.least else '<='} {self.bound:g}"

    def holds(self, value: float) -> bool:
        """NaN keeps no bound."""
        return value >= self.bound if self.least else value <= self.bound


def gates(least: Sequence[str], most: Sequence[str]) -> list[Gate]:
    """Gates of `--min metric=value` and `--max metric=value`.

    Raises:
        ConfigError: C235, one that is not of this form.
    """
    found = []
    for option, texts in (("--min", least), ("--max", most)):
        for text in texts:
            name, _, number = text.partition("=")
            try:
                bound = float(number)
            except ValueError:
                bound = float("nan")
            if not name or bound != bound:
                raise ConfigError(
                    "C235",
                    f"`{text}` is no metric with a number",
                    where=option,
                    fix=f"{option} accuracy=0.6",
                )
            found.append(Gate(name.strip(), bound, option == "--min"))
    return found


def refuse(wanted: Sequence[Gate], metrics: dict[str, float], path: Path) -> None:
    """Raises where a gate is missed; results are written by then.

    Raises:
        ConfigError: C236, a metric that was not measured.
        GateFailed: G204.
    """
    missed = []
    for gate in wanted:
        value = metrics[known(gate.metric, metrics)]
        if not gate.holds(value):
            missed.append(f"{gate.metric} is {value:.6g}, wanted {gate}")
    if missed:
        why, fix = "\n".join(missed[1:4]), "look at its samples.jsonl, or train on"
        raise GateFailed("G204", missed[0], where=str(path), why=why, fix=fix)


def known(name: str, metrics: dict[str, float]) -> str:
    """The metric that a gate means."""
    given = name
    name = name.removeprefix("eval_")
    while name not in metrics and name in SHORT:
        name = SHORT[name]
    if name in metrics:
        return name
    raise ConfigError(
        "C236",
        f"`{given}` is not measured by this stage",
        where="--min, --max",
        fix=f"{did_you_mean(given, list(metrics))}  known: {', '.join(metrics)}".strip(),
    )


def name_of(subject: Subject, data: Sequence[str], given: str | None) -> str:
    """The evaluation's folder: what was given, else its data and step.

    Raises:
        ConfigError: C237, a name that is no folder's.
    """
    if given is None:
        stems = [re.sub(r"[^\w.-]+", "-", Path(one).stem).strip("-.") for one in data]
        return f"{'+'.join(filter(None, stems)) or 'held-out'}-step-{subject.step}"
    if re.fullmatch(r"\w[\w.@+-]{0,99}", given) is None:
        raise ConfigError(
            "C237",
            f"`{given}` can't be the name of an evaluation",
            where="--name",
            fix="use letters, digits, `.`, `-`, `_`, `@` and `+`",
        )
    return given


def folder(subject: Subject, name: str) -> Path:
    """Where an evaluation of that name lies."""
    return subject.run.path / "eval" / name


def written(found: Measured, name: str, wanted: Sequence[Gate]) -> dict[str, Any]:
    """Writes results.json and, where rows have values, samples.jsonl; each is replaced whole.

    Returns:
        What results.json holds.
    """
    path = folder(found.subject, name)
    path.mkdir(parents=True, exist_ok=True)
    samples = path / "samples.jsonl"
    if found.rows:
        files.write_text(samples, "".join(map(_line, _rows(found))))
    else:
        samples.unlink(missing_ok=True)
    result = {
        "name": name,
        "run": found.subject.run.id,
        "weights": found.subject.name,
        "step": found.subject.step,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tunesmith": __version__,
        "metrics": found.metrics,
        "standard_errors": found.standard_errors,
        "mean_over": found.units,
        "gates": [str(gate) for gate in wanted],
        **found.facts,
    }
    files.write_json(path / "results.json", result)
    return result


def _rows(found: Measured) -> list[dict[str, Any]]:
    return [
        {"where": place, **{name: values[at] for name, values in found.rows.items()}}
        for at, place in enumerate(found.places)
    ]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(files.finite(row), ensure_ascii=False) + "\n"


def lines(result: dict[str, Any]) -> str:
    """The metrics for people: `accuracy  0.9417 ± 0.0151`."""
    errors = result["standard_errors"]
    width = max(map(len, result["metrics"]))
    return "\n".join(
        f"{name:<{width}}  {value:.4f}" + (f" ± {errors[name]:.4f}" if name in errors else "")
        for name, value in result["metrics"].items()
    )

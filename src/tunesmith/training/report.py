"""Trackers beside metrics.jsonl: TensorBoard files, and wandb kept offline in the run directory."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import ConfigError, MissingExtra
from tunesmith.registry import did_you_mean


class Reporter(Protocol):
    """Observes a run; it may not change it."""

    def metrics(self, line: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def build(names: Sequence[str], run_path: Path) -> list[Reporter]:
    """One reporter for each name of `log.report_to`.

    Raises:
        ConfigError: C195, a name that is not known.
        MissingExtra: the tracker's package is not installed.
    """
    check(names)
    return [KINDS[name](Path(run_path)) for name in dict.fromkeys(names)]


def check(names: Sequence[str]) -> None:
    """Refuses unknown names before a run begins.

    Raises:
        ConfigError: C195, a name that is not known.
    """
    for name in names:
        if name not in KINDS:
            known = ", ".join(sorted(KINDS))
            raise ConfigError(
                "C195",
                f"no tracker called `{name}`",
                where="log.report_to",
                fix=f"{did_you_mean(name, list(KINDS))}  known: {known}".strip(),
            )


def check_installed(names: Sequence[str]) -> None:
    """Refuses a tracker whose package is missing before any work is done.

    Raises:
        ConfigError: C195, a name that is not known.
        MissingExtra: E401, the tracker's package is not installed.
    """
    check(names)
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(name, "trackers", f"log.report_to: {name}")


class TensorBoard:
    """Event files in `tensorboard/` of the run: `tensorboard --logdir RUN`."""

    def __init__(self, run_path: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "trackers", "log.report_to: tensorboard") from error
        self._open = lambda step: SummaryWriter(str(run_path / "tensorboard"), purge_step=step)
        self._writer: Any = None

    def metrics(self, line: Mapping[str, Any]) -> None:
        if self._writer is None:  # on resume, what was written after the checkpoint is purged
            self._writer = self._open(line["step"])
        for tag, value in _scalars(line):
            self._writer.add_scalar(tag, value, line["step"])
        self._writer.flush()  # a killed run keeps its curves

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """An offline wandb run in `wandb/`; `wandb sync` uploads it. Never asks for a login."""

    def __init__(self, run_path: Path):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtra("wandb", "trackers", "log.report_to: wandb") from error
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        self._run = wandb.init(
            project="tunesmith",
            id=run_path.name,
            name=run_path.name,
            dir=str(run_path),
            mode="offline",
            settings=settings,
        )

    def metrics(self, line: Mapping[str, Any]) -> None:
        self._run.log(dict(_scalars(line)), step=line["step"])

    def close(self) -> None:
        self._run.finish()


KINDS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}


def _scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`eval_loss` → `eval/loss`, `loss` → `train/loss`; numbers only, the step is the axis."""
    for name, value in line.items():
        if name == "step" or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if name.startswith("eval_"):
            yield f"eval/{name.removeprefix('eval_')}", value
        else:
            yield f"train/{name}", value

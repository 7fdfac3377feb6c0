"""The run directory: one folder holds everything about a run, and whoever reads it needs no more.

    recipe.yaml resolved.yaml run.json metrics.jsonl events.jsonl log.txt trainer_state.json
    checkpoints/step-100/ final/ …

Its state is queued, running, done, failed or stopped. A run that says it is running but whose lock
is free was killed, and reads as failed.
"""

from __future__ import annotations

import json
import os
import platform as system
import shutil
import signal
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.errors import RunError
from tunesmith.rundir import files, lock, names

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy")
KILLED = "killed: its process is gone"
ENDED = ("done", "failed", "stopped")


class RunDir:
    """One run directory. Make it with `create`, `open` or `find`."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def id(self) -> str:
        return self.path.name

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    # ------------------------------------------------------------ making and finding

    @classmethod
    def create(
        cls,
        recipe_text: str,
        recipe: Any,
        *,
        root: str | os.PathLike[str],
        name: str | None = None,
        resolved: str | None = None,
    ) -> RunDir:
        """Makes the directory of a new run, in state queued, and points `last` at it.

        It is written aside and renamed: a process killed meanwhile leaves no half of a run.

        Args:
            recipe_text: The recipe as given.
            recipe: The Recipe; stage, model, lengths and seed are noted in run.json.
            root: Folder of runs.
            name: The run's id; default: time, stage, model and four random characters.
            resolved: YAML of every value with its origin; default: `recipe_text`.

        Raises:
            RunError: R102, a run of that name exists, or the folder can't be made.
        """
        folder = Path(root).expanduser().resolve()
        path = folder / (name or names.make_id(recipe.stage.kind, _model_name(recipe)))
        aside = folder / f".new-{path.name}-{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
            files.write_text(aside / "recipe.yaml", recipe_text)
            files.write_text(aside / "resolved.yaml", resolved or recipe_text)
            files.write_json(aside / names.INFO, _first_info(path.name, recipe))
            aside.rename(path)  # onto nothing, or onto an empty folder
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if isinstance(error, OSError):
                raise _not_made(path, error) from None
            raise
        files.link_last(folder, path.name)
        names.remember(path)
        return cls(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDir:
        """The run at a path.

        Raises:
            RunError: R105, it is not a run directory.
        """
        if not (Path(path) / names.INFO).is_file():
            raise RunError("R105", f"{path} is not a run: it has no run.json", where=str(path))
        return cls(Path(path).resolve())

    @classmethod
    def find(cls, spec: str, root: str | os.PathLike[str] = "runs/") -> tuple[RunDir, str | None]:
        """The run a user means, and which of its checkpoints.

        Args:
            spec: Id, unique prefix, path or `last`; with `@step-100`, `@best` or `@final`.
            root: Folder looked in first; then the index of all runs.

        Returns:
            (run, selector without `@`, or None).

        Raises:
            RunError: R105, no such run; R106, several begin so.
        """
        name, selector = names.split(spec)
        return cls(names.locate(name, Path(root).expanduser())), selector

    @classmethod
    def all(cls, root: str | os.PathLike[str] = "runs/") -> list[RunDir]:
        """Runs of a folder, or of the index if it has none, the oldest first."""
        return [cls(path) for path in names.all_runs(Path(root).expanduser())]

    # ------------------------------------------------------------ state

    def info(self) -> dict[str, Any]:
        """What run.json says, corrected where the process behind it is gone.

        Raises:
            RunError: R109, run.json is damaged.
        """
        try:
            found = json.loads((self.path / names.INFO).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                "R109", f"run.json can't be read: {error}", where=str(self.path)
            ) from None
        if found.get("state") == "running" and not self.is_locked():
            found |= {"state": "failed", "error": found.get("error") or KILLED}
        return found

    def update(self, **fields: Any) -> None:
        """Sets fields of run.json atomically; a run that ends gets its trainer_state.json too."""
        found = {**self._raw(), **fields, "updated": _now()}
        files.write_json(self.path / names.INFO, found)
        if fields.get("state") in ENDED:
            state = files.trainer_state(found, self.metrics())
            files.write_json(self.path / "trainer_state.json", state)

    def _raw(self) -> dict[str, Any]:
        return json.loads((self.path / names.INFO).read_text(encoding="utf-8"))

    def lock(self) -> AbstractContextManager[None]:
        """Holds the run for this process.

        Raises:
            RunError: R101, another process holds it.
        """
        return lock.held(self.path)

    def is_locked(self) -> bool:
        """Whether a living process holds the run."""
        return lock.is_held(self.path)

    def refuse_if_locked(self) -> None:
        """Tells early what `lock` would tell after the work before it.

        Raises:
            RunError: R101, another process holds it.
        """
        if self.is_locked():
            raise lock.rival(self.path)

    def request_stop(self) -> int:
        """Asks the process that holds the run to finish its step, save and stop.

        Returns:
            Its pid.

        Raises:
            RunError: R104, nobody holds the run; R103, a process of another host does.
        """
        found = lock.holder(self.path)
        if not self.is_locked() or "pid" not in found:
            state = self.info().get("state")
            raise RunError("R104", f"{self.id} is not running: its state is {state}")
        if found.get("host") != socket.gethostname():
            raise RunError(
                "R103",
                f"{self.id} runs on another machine, {found.get('host')}",
                fix=f"there: kill -TERM {found['pid']}",
            )
        os.kill(int(found["pid"]), signal.SIGTERM)
        return int(found["pid"])

    def remove(self) -> None:
        """Deletes the directory with everything in it.

        Raises:
            RunError: R101, a living process holds the run.
        """
        with self.lock():
            aside = self.path.with_name(f".trash-{self.id}")
            self.path.rename(aside)  # gone at once for readers, even if deleting takes a while
        shutil.rmtree(aside)
        names.forget(self.path)

    # ------------------------------------------------------------ what happened

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl; non-finite numbers become null."""
        files.append_line(self.path / "metrics.jsonl", line)

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl."""
        return files.read_lines(self.path / "metrics.jsonl")

    def truncate_metrics(self, step: int) -> None:
        """Forgets, atomically, what was measured and sampled after `step`: a resumed run does so
        again."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            files.keep_lines(self.path / name, lambda line: line.get("step", 0) <= step)

    def clean(self) -> None:
        """Removes files that a killed process left half written. Call it under the lock."""
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def append_event(self, kind: str, **fields: Any) -> None:
        """Adds one line to events.jsonl, which only grows."""
        files.append_line(self.path / "events.jsonl", {"time": _now(), "kind": kind, **fields})

    def events(self) -> list[dict[str, Any]]:
        """All whole lines of events.jsonl."""
        return files.read_lines(self.path / "events.jsonl")

    # ------------------------------------------------------------ what it made

    def steps(self) -> list[int]:
        """Steps whose checkpoint is all there (every file of its manifest, by size), ascending."""
        found = []
        for path in (self.path / "checkpoints").glob("step-*"):
            number = path.name.removeprefix("step-")
            if number.isdigit() and _is_whole(path):
                found.append(int(number))
        return sorted(found)

    def best_step(self) -> int | None:
        """The step of the best evaluation, as the newest checkpoint remembers it."""
        for step in reversed(self.steps()):
            state = self._step_path(step) / "state.json"
            try:
                best = json.loads(state.read_text(encoding="utf-8")).get("best")
            except (OSError, ValueError):
                continue
            if isinstance(best, dict):
                return best.get("step")
        return None

    def model_path(self, selector: str | None = None) -> Path:
        """The directory that holds this run's model: final/, else the best, else the newest.

        Args:
            selector: `step-100`, `best` or `final`; None: the best there is.

        Raises:
            RunError: R107, there is none yet; R108, not the one that was asked for.
        """
        steps, final = self.steps(), self.path / "final"
        if selector == "final" or (selector is None and final.is_dir()):
            if final.is_dir():
                return final
            raise self._no_checkpoint("final", steps)
        best = self.best_step()
        if selector is None:
            if not steps:
                running = lock.is_held(self.path)
                state = "is still training and has" if running else "has"
                raise RunError(
                    "R107",
                    f"{self.id} {state} no checkpoint and no final model yet",
                    where=str(self.path),
                    fix="wait for its first checkpoint (save.steps)"
                    if running
                    else f"tunesmith resume {self.id}",
                )
            return self._step_path(best if best in steps else steps[-1])
        wanted = best if selector == "best" else int(selector.removeprefix("step-"))
        if wanted is None or wanted not in steps:
            raise self._no_checkpoint(selector, steps)
        return self._step_path(wanted)

    def _step_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"

    def _no_checkpoint(self, selector: str, steps: list[int]) -> RunError:
        there = ", ".join(f"@step-{step}" for step in steps) or "none"
        return RunError("R108", f"{self.id} has no @{selector}", fix=f"there are: {there}")


def _first_info(name: str, recipe: Any) -> dict[str, Any]:
    return {
        "id": name,
        "state": "queued",
        "created": _now(),
        "stage": recipe.stage.kind,
        "tuner": recipe.tuner.kind,
        "model": recipe.model.path or (recipe.model.config or {}).get("model_type"),
        "seed": recipe.train.seed,
        "num_train_epochs": recipe.train.num_train_epochs,
        "logging_steps": recipe.train.logging_steps,
        "host": socket.gethostname(),
        "pid": None,
        "tunesmith": __version__,
        "python": system.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "parent": None,
        "exit_code": None,
        "error": None,
    }


def _not_made(path: Path, error: OSError) -> RunError:
    """R102: the name is taken, or the folder can't be written to."""
    if not path.exists():
        what = f"can't make the run directory ({error.strerror})"
        return RunError("R102", what, where=str(path), fix="choose another output.dir")
    fix = "choose another output.name"
    if (path / names.INFO).is_file():
        what = f"there is a run called `{path.name}` already"
        fix = f"tunesmith resume {path.name}, or {fix}"
    else:
        what = f"there is something called `{path.name}` already, and it is no run"
    return RunError("R102", what, where=str(path), fix=fix)


def _model_name(recipe: Any) -> str:
    config = recipe.model.config or {}
    return str(recipe.model.path or config.get("model_type") or "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_whole(path: Path) -> bool:
    """Every file of the manifest is there with its size; hashes are checked when it is opened."""
    try:
        listed = json.loads((path / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
        return all((path / name).stat().st_size == file["size"] for name, file in listed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

"""Checkpoints that are whole or not there: written aside, hashed in a manifest, fsynced, renamed.

    checkpoints/step-100/weights-00000-of-00001.safetensors     trained tensors by parameter name
                         optimizer-00000-of-00001.safetensors   `exp_avg/<name>` …
                         index.json      global shape of each tensor, and where its pieces are
                         state.json      step, best, log: everything that is not a tensor
                         MANIFEST.json   size and sha256 of every file; its own digest

The rename of `.tmp-<step>-<pid>-<save id>` to `step-<step>` is the one moment of commitment. The
newest checkpoint is the one of the highest step that verifies: neither clocks nor pointers count.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from tunesmith.errors import RunError
from tunesmith.rundir.files import size_text
from tunesmith.training import manifest, shards
from tunesmith.training.durable import (
    Written,
    hash_file,
    make_directory,
    remove_tree,
    sync_directory,
    write_file,
)
from tunesmith.training.manifest import GROUPS, encode, verify
from tunesmith.types import Parallel

FOLDER = "checkpoints"

_STEP = re.compile(r"step-(0|[1-9]\d*)")
_ASIDE = re.compile(r"\.(tmp|trash|old)-(\d+)-.+")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk; `newest` and `open_step` give verified ones."""

    path: Path

    @cached_property
    def step(self) -> int:
        return int(self.path.name.removeprefix("step-"))

    @cached_property
    def state(self) -> dict[str, Any]:
        """What was given to `save` as state."""
        return json.loads((self.path / "state.json").read_text("utf-8"))

    def weights(self) -> dict[str, Tensor]:
        """Trained tensors by parameter name, whole, on the CPU."""
        return self._read("weights")

    def optimizer(self) -> dict[str, Tensor]:
        """Optimizer state as `training.optim.state_tensors` named it."""
        return self._read("optimizer")

    def _read(self, group: str) -> dict[str, Tensor]:
        index = json.loads((self.path / "index.json").read_text("utf-8"))
        return shards.read(self.path, index[group])


# ---------------------------------------------------------------- writing


def save(
    run_path: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    limit: int | None,
    best: int | None,
    parallel: Parallel | None = None,
) -> Path:
    """Commits a checkpoint, then removes old ones. Called by every rank at the same step.

    An earlier checkpoint of this step (a damaged one, say) is replaced. Whatever fails, the
    checkpoints that were there before are still there.

    Args:
        run_path: The run directory.
        step: Updates done.
        weights: Trained tensors by name; a DTensor is written by the ranks that hold it.
        optimizer: Optimizer state by name.
        state: JSON values.
        limit: Keep the newest so many; None keeps all.
        best: Step of the best checkpoint, kept too.
        parallel: The backend; None is a single process.

    Returns:
        The checkpoint's directory.

    Raises:
        RunError: R110, it could not be written (disk full, I/O error); R112, a tensor is not
            finite; R114, another process could not write its part.
    """
    rank, world = (parallel.rank, parallel.world) if parallel else (0, 1)
    folder = Path(run_path) / FOLDER
    save_id, pid = _agree(parallel)
    aside = folder / f".tmp-{step}-{pid}-{save_id}"
    tail = f"{rank:05d}-of-{world:05d}"
    with _all_or_none(parallel, step, aside):
        for group, tensors in zip(GROUPS, (weights, optimizer), strict=True):
            shards.refuse_non_finite(tensors, step, group)
        make_directory(folder)
        make_directory(aside)
        header = {"save_id": save_id, "step": str(step)}
        files, index = _write_shards(aside, (weights, optimizer), rank, tail, header)
        if rank != 0:
            part = {"save_id": save_id, "files": files, "index": index}
            write_file(aside / f"part-{tail}.json", [encode(part)])
    with _all_or_none(parallel, step, aside):
        if rank == 0:
            _take_parts(aside, save_id, world, files, index)
            files["index.json"] = write_file(aside / "index.json", [encode(index)])
            files["state.json"] = write_file(aside / "state.json", [encode(state)])
            facts = {"save_id": save_id, "step": step, "world": world}
            facts["recipe"] = _recipe_hash(Path(run_path))
            manifest.write(aside, facts, files)
            _commit(aside, folder / f"step-{step}")
    if rank == 0:
        _prune(folder, limit, {step, best})
    return folder / f"step-{step}"


def check_space(run_path: Path, parameters: Iterable[Tensor], *, copies: int = 2) -> int:
    """Refuses a run whose checkpoints won't fit, before it starts.

    Args:
        run_path: The run directory, or any existing directory on the same file system.
        parameters: The trained parameters; AdamW's two moments are counted with them.
        copies: Checkpoints that must fit beside each other while one replaces another.

    Returns:
        Bytes of one checkpoint, about.

    Raises:
        RunError: R111, less than `copies` checkpoints fit.
    """
    each = sum(3 * p.numel() * p.element_size() + 2048 for p in parameters)
    there = min(len(steps(run_path)), copies - 1)
    free = shutil.disk_usage(run_path).free
    if free < each * (copies - there):
        raise RunError(
            "R111",
            f"{copies} checkpoints of {size_text(each)} don't fit: {size_text(free)} are free",
            where=str(run_path),
            fix="free space, or set output.dir to another disk",
        )
    return each


def clean(run_path: Path) -> None:
    """Removes what a killed run left half done. Call it under the run's lock, before `newest`."""
    folder = Path(run_path) / FOLDER
    for path in Path(run_path).glob(".final-*"):
        with _best_effort(f"{path} could not be cleaned up"):
            remove_tree(path)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _ASIDE.fullmatch(path.name)
        if match is None:
            continue
        target = folder / f"step-{match[2]}"
        with _best_effort(f"{path} could not be cleaned up"):
            if match[1] == "old" and not target.exists():
                os.rename(path, target)  # killed between the two renames of a replacement
                sync_directory(folder)
            else:
                remove_tree(path)


def discard_after(run_path: Path, step: int) -> None:
    """Removes checkpoints of later steps: a run that goes back to `step` takes another path."""
    folder = Path(run_path) / FOLDER
    for later in steps(run_path):
        if later > step:
            _discard(folder, later)


# ---------------------------------------------------------------- reading


def steps(run_path: Path) -> list[int]:
    """Steps that have a checkpoint directory, ascending; whether they verify is not looked at."""
    folder = Path(run_path) / FOLDER
    if not folder.is_dir():
        return []
    matches = (_STEP.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def newest(run_path: Path, on_skip: Callable[[Path, str], None] | None = None) -> Checkpoint | None:
    """The checkpoint of the highest step that verifies, or None.

    Args:
        run_path: The run directory.
        on_skip: Told of every newer one that does not verify, and why.
    """
    for step in reversed(steps(run_path)):
        path = Path(run_path) / FOLDER / f"step-{step}"
        found = verify(path)
        if not found:
            return Checkpoint(path)
        if on_skip is not None:
            on_skip(path, "; ".join(found))
    return None


def open_step(run_path: Path, step: int) -> Checkpoint:
    """The checkpoint of one step.

    Raises:
        RunError: R113, it is not there or does not verify.
    """
    path = Path(run_path) / FOLDER / f"step-{step}"
    found = verify(path)
    if found:
        known = ", ".join(map(str, steps(run_path))) or "none"
        raise RunError(
            "R113",
            f"the checkpoint of step {step} can't be used: {found[0]}",
            where=str(path),
            why="\n".join(found[1:4]),
            fix=f"choose another step (there are: {known}), or start again",
        )
    return Checkpoint(path)


# ---------------------------------------------------------------- steps of a save


def _agree(parallel: Parallel | None) -> tuple[str, int]:
    """Rank 0's save id and pid, on every rank. 48 bits, so that a float sum carries them."""
    own = {"save": float(secrets.randbits(48)), "pid": float(os.getpid())}
    if parallel is not None:
        own = parallel.sum(own if parallel.rank == 0 else dict.fromkeys(own, 0.0))
    return f"{int(own['save']):012x}", int(own["pid"])


@contextmanager
def _all_or_none(parallel: Parallel | None, step: int, aside: Path) -> Iterator[None]:
    """Waits for all ranks; where one fails, the files written aside go and all raise."""
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
    failed = float(failure is not None)
    if parallel is not None:
        failed = parallel.sum({"failed": failed})["failed"]
    if not failed:
        return
    with _best_effort(f"{aside} is left over and will go at the next start"):
        remove_tree(aside)
    if isinstance(failure, OSError):
        raise _not_written(step, failure, aside.parent) from failure
    raise failure or RunError(
        "R114",
        f"checkpoint at step {step} not written: another process failed",
        where=str(aside.parent),
        fix="look at the log of the process that failed; earlier checkpoints are as they were",
    )


def _not_written(step: int, error: OSError, where: Path) -> RunError:
    return RunError(
        "R110",
        f"checkpoint at step {step} not written ({error.strerror or error})",
        where=str(where),
        why="Earlier checkpoints are as they were.",
        fix="free space or mend the disk, then: tunesmith resume",
    )


def _write_shards(
    aside: Path,
    groups: tuple[Mapping[str, Tensor], ...],
    rank: int,
    tail: str,
    header: Mapping[str, str],
) -> tuple[dict[str, Written], dict[str, Any]]:
    """This rank's file of each group, and its part of the index."""
    files: dict[str, Written] = {}
    index: dict[str, Any] = {}
    for group, tensors in zip(GROUPS, groups, strict=True):
        path = aside / f"{group}-{tail}.safetensors"
        files[path.name], index[group] = shards.write(path, tensors, rank=rank, metadata=header)
    return files, index


def _take_parts(
    aside: Path, save_id: str, world: int, files: dict[str, Written], index: dict[str, Any]
) -> None:
    """Adds what the other ranks wrote, if it is of this save.

    Raises:
        OSError: a part is missing.
        RunError: R114, a part is of another save.
    """
    for rank in range(1, world):
        path = aside / f"part-{rank:05d}-of-{world:05d}.json"
        part = json.loads(path.read_text("utf-8"))
        if part["save_id"] != save_id:
            raise RunError("R114", f"{path.name} is of another save", where=str(aside))
        files |= {name: Written(*value) for name, value in part["files"].items()}
        for group in GROUPS:
            index[group] = shards.merge([index[group], part["index"][group]])
        os.unlink(path)


def _commit(aside: Path, target: Path) -> None:
    """Renames the finished directory into place; a checkpoint that is there already goes."""
    sync_directory(aside)
    old = target.with_name(aside.name.replace(".tmp", ".old", 1))
    replaced = target.exists()
    if replaced:
        os.rename(target, old)
    try:
        os.rename(aside, target)
    except OSError:
        if replaced:
            os.rename(old, target)
        raise
    sync_directory(target.parent)
    if replaced:
        with _best_effort(f"{old} is left over and will go at the next start"):
            remove_tree(old)


def _prune(folder: Path, limit: int | None, keep: set[int | None]) -> None:
    """Removes all but the newest `limit` and those to keep, by step number."""
    if limit is None:
        return
    known = steps(folder.parent)
    for step in sorted(set(known) - set(known[-max(limit, 1) :]) - keep):
        _discard(folder, step)


def _discard(folder: Path, step: int) -> None:
    """Removes a checkpoint, first its name: half a checkpoint is never seen under it."""
    trash = folder / f".trash-{step}-{secrets.token_hex(6)}"
    with _best_effort(f"checkpoint of step {step} could not be removed"):
        os.rename(folder / f"step-{step}", trash)
        remove_tree(trash)


@contextmanager
def _best_effort(message: str) -> Iterator[None]:
    """Tidying may fail; training goes on, and the next start tries again."""
    try:
        yield
    except OSError as error:
        _log.warning("%s (%s)", message, error.strerror or error)


def _recipe_hash(run_path: Path) -> str | None:
    """SHA-256 of resolved.yaml, to tell which recipe a checkpoint was made with."""
    try:
        return hash_file(run_path / "resolved.yaml").sha256
    except FileNotFoundError:
        return None

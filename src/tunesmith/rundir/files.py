"""Files of a run directory: JSON replaced atomically, lines appended, torn lines tolerated."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replaces a file so that readers, and a power cut, see the old or the new one, never half.

    Raises:
        OSError: the disk is full or not writable; the old file is untouched.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        with aside.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file atomically; see `write_text`."""
    text = json.dumps(finite(value), ensure_ascii=False, indent=2, default=str)
    write_text(path, text + "\n")


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Appends one JSON line in a single write; after a torn line it starts a new one."""
    line = (json.dumps(finite(value), ensure_ascii=False, default=str) + "\n").encode()
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole JSON lines; a line torn by a kill is passed over."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for line in raw.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites a file of JSON lines atomically with those that are wanted."""
    if path.exists():
        kept = [line for line in read_lines(path) if wanted(line)]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def finite(value: Any) -> Any:
    """The value with NaN and infinities as null: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child) for child in value]
    return value


def size_text(count: float) -> str:
    """Bytes for people, in powers of 1000: `950 B`, `21.4 KB`, `3.0 MB`, `1.25 GB`."""
    for limit, unit, digits in ((1e9, "GB", 2), (1e6, "MB", 1), (1e3, "KB", 1)):
        if count >= limit:
            return f"{count / limit:.{digits}f} {unit}"
    return f"{count:.0f} B"


def link_last(root: Path, name: str) -> None:
    """Points `last` at the newest run; where links can't be made the newest id serves."""
    aside = root / f".last.{os.getpid()}-{secrets.token_hex(3)}"
    try:
        aside.symlink_to(name, target_is_directory=True)
        os.replace(aside, root / "last")
    except OSError:
        aside.unlink(missing_ok=True)


def trainer_state(info: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The history in the form of transformers' `trainer_state.json`, for tools that plot it.

    Args:
        info: What run.json holds.
        metrics: The lines of metrics.jsonl.
    """
    last = metrics[-1] if metrics else {}
    return {
        "best_metric": info.get("best_value"),
        "best_model_checkpoint": info.get("best_checkpoint"),
        "epoch": last.get("epoch", 0.0),
        "global_step": last.get("step", 0),
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": [dict(line) for line in metrics],
        "logging_steps": info.get("logging_steps"),
        "max_steps": info.get("total_steps") or last.get("step", 0),
        "num_input_tokens_seen": max(_tokens(metrics), default=0),
        "num_train_epochs": info.get("num_train_epochs"),
        "trial_name": None,
        "trial_params": None,
    }


def _tokens(metrics: Iterable[Mapping[str, Any]]) -> list[int]:
    return [int(line["tokens"]) for line in metrics if line.get("tokens") is not None]

"""The manifest of a checkpoint: what every file must be, so that any damage is found and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tunesmith import __version__
from tunesmith.training import shards
from tunesmith.training.durable import Written, hash_file, write_file

FORMAT = 1
NAME = "MANIFEST.json"
GROUPS = ("weights", "optimizer")


def write(folder: Path, facts: Mapping[str, Any], files: Mapping[str, Written]) -> None:
    """Writes the manifest, the last file of a checkpoint.

    Args:
        folder: Where the files are.
        facts: save_id, step, world, recipe.
        files: Size and hash of each.
    """
    manifest = {
        **facts,
        "format": FORMAT,
        "files": {name: written._asdict() for name, written in files.items()},
        "tunesmith": __version__,
        "torch": torch.__version__,
    }
    write_file(folder / NAME, [encode({**manifest, "digest": _digest(manifest)})])


def verify(path: Path) -> list[str]:
    """Problems of a checkpoint, each a sentence that names the file; empty if it is sound.

    Reads every byte: size and sha256 of each file, the manifest's own digest, that all files are of
    one save, and that every tensor is whole.
    """
    try:
        manifest = _read(path)
    except (OSError, ValueError) as error:
        return [_reason(error, NAME)]
    if f"step-{manifest['step']}" != path.name:
        return [f"{NAME} is of step {manifest['step']}"]
    found = [
        problem
        for name, expected in manifest["files"].items()
        if (problem := _file_problem(path / name, Written(**expected), manifest["save_id"]))
    ]
    if not found:
        index = json.loads((path / "index.json").read_text("utf-8"))
        found = [problem for group in GROUPS for problem in shards.problems(index[group])]
    return found


def encode(value: Any) -> bytes:
    """The one way JSON is written here, so that equal bytes mean equal values and back."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def _read(path: Path) -> dict[str, Any]:
    """The manifest, if every byte of it is as it was written.

    Raises:
        ValueError: with the reason.
    """
    raw = (path / NAME).read_bytes()
    try:
        manifest = json.loads(raw)
        known = manifest["format"]
        digest = manifest.pop("digest")
        sound = digest == _digest(manifest) and raw == encode({**manifest, "digest": digest})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{NAME} is damaged") from error
    if not sound:
        raise ValueError(f"{NAME} is damaged")
    if known != FORMAT:
        raise ValueError(f"{NAME} has format {known}; this version reads {FORMAT}")
    for name in ("index.json", "state.json"):
        if name not in manifest["files"]:
            raise ValueError(f"{NAME} does not list {name}")
    if any(Path(name).name != name for name in manifest["files"]):
        raise ValueError(f"{NAME} names a file outside the checkpoint")
    return manifest


def _file_problem(path: Path, expected: Written, save_id: str) -> str:
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"{path.name} has {size} bytes instead of {expected.size}"
        if hash_file(path) != expected:
            return f"{path.name} was changed after it was written (sha256 differs)"
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("save_id") != save_id:
                    return f"{path.name} is of another save than {NAME}"
    except (OSError, SafetensorError) as error:
        return _reason(error, path.name)
    return ""


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    if isinstance(error, OSError):
        return f"{name} can't be read ({error.strerror})"
    return str(error)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode(value)).hexdigest()

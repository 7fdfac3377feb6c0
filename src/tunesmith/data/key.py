"""The key of a token store: a hash over everything its tokens depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.data import read
from tunesmith.recipe.sections import DataConfig, Source


def store_key(source: Source, format: str, config: DataConfig, key_parts: Mapping[str, Any]) -> str:
    """SHA-256 of canonical JSON of everything a store's content depends on.

    Bad rows are part of a store's report whatever `on_bad_row` says, so that is no part of the key.
    """
    parts = {
        **key_parts,
        "rows": read.content_hash(source.path),
        "format": format,
        "columns": dict(source.columns or {}),
        "source_system": source.system,
        "weight": source.weight,
        "max_samples": source.max_samples,
        "fill": dict(source.fill or {}),
        "max_length": config.max_length,
        "on_overlength": config.on_overlength,
        "max_prompt_length": config.max_prompt_length,
        "max_answer_length": config.max_answer_length,
        "truncation": config.truncation,
        "system": config.system,
        "input_joiner": config.input_joiner,
        "code": code_hash(),
    }
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


CODE = ("types.py", "data/*.py", "data/formats/*.py", "templates/*", "stages/*.py")


@cache
def code_hash(root: Path | None = None) -> str:
    """Hash of the source files that turn rows into tokens, and of the tokenizers release."""
    digest = hashlib.sha256(importlib.metadata.version("tokenizers").encode())
    top = root or Path(__file__).parents[1]
    for path in sorted(p for pattern in CODE for p in top.glob(pattern) if p.is_file()):
        digest.update(f"\n{path.relative_to(top).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()

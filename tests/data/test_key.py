"""The key of a store changes with everything its tokens depend on, and with nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import tunesmith
from tunesmith.data.key import CODE, code_hash, store_key
from tunesmith.recipe.sections import DataConfig, Source

PARTS = {
    "stage": {"kind": "sft", "train_on": "all_turns"},
    "template": "t1",
    "tokenizer": "h1",
    "unk_id": 0,
}


def key(path, *, source=None, format="alpaca", config=None, parts=None):
    made = dataclasses.replace(Source(str(path)), **(source or {}))
    return store_key(made, format, DataConfig(**(config or {})), {**PARTS, **(parts or {})})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "a", "output": "b"}))
    return path


FLIPS = {
    "format": {"format": "openai"},
    "columns": {"source": {"columns": {"instruction": "q"}}},
    "system of the source": {"source": {"system": ""}},
    "weight": {"source": {"weight": 0.5}},
    "max_samples": {"source": {"max_samples": 1}},
    "fill": {"source": {"fill": {"name": "Ada"}}},
    "system": {"config": {"system": "be kind"}},
    "max_length": {"config": {"max_length": 1023}},
    "on_overlength": {"config": {"on_overlength": "skip"}},
    "max_prompt_length": {"config": {"max_prompt_length": 512}},
    "max_answer_length": {"config": {"max_answer_length": 512}},
    "truncation": {"config": {"truncation": "cut_end"}},
    "input_joiner": {"config": {"input_joiner": " "}},
    "template": {"parts": {"template": "t2"}},
    "tokenizer": {"parts": {"tokenizer": "h2"}},
    "stage": {"parts": {"stage": {"kind": "sft", "train_on": "last_turn"}}},
    "unk_id": {"parts": {"unk_id": None}},
}


@pytest.mark.parametrize("flip", FLIPS)
def test_each_flip_is_a_miss(file, flip):
    assert key(file) != key(file, **FLIPS[flip])


def test_each_byte_of_the_rows_counts(file):
    before = key(file)
    content = file.read_bytes()
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        file.write_bytes(changed)
        assert key(file) != before
    file.write_bytes(content)
    assert key(file) == before


def test_place_and_time_do_not_count(file, tmp_path):
    other = tmp_path / "elsewhere.jsonl"
    shutil.copy(file, other)
    assert key(file) == key(other)
    quiet = {"on_bad_row": "skip", "num_proc": 7, "packing": "pack", "shuffle": False}
    assert key(file) == key(file, config=quiet)


def test_every_source_file_that_makes_tokens_counts(file, tmp_path, monkeypatch):
    package = Path(tunesmith.__file__).parent
    copy = tmp_path / "tunesmith"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_hash(copy)
    assert before == code_hash(package)
    parts = {pattern: sorted(copy.glob(pattern)) for pattern in CODE}
    for name in ("data/encode.py", "data/formats/alpaca.py", "stages/sft.py", "types.py"):
        assert copy / name in [path for found in parts.values() for path in found]
    for pattern, found in parts.items():
        path = next((p for p in found if p.is_file()), None)
        assert path, f"{pattern} finds nothing"
        original = path.read_bytes()
        path.write_bytes(original + b"\n")
        code_hash.cache_clear()
        assert code_hash(copy) != before, pattern
        path.write_bytes(original)
    code_hash.cache_clear()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    assert code_hash(copy) != before
    code_hash.cache_clear()

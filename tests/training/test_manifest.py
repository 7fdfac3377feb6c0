"""The manifest: what it says, and that only its own bytes pass for it (damage: tests/crash)."""

from __future__ import annotations

import hashlib
import json

import torch

from tunesmith import __version__
from tunesmith.training import checkpoint, manifest


def save(run):
    return checkpoint.save(
        run, 4, weights={"w": torch.ones(3)}, optimizer={}, state={}, limit=None, best=None
    )


def test_it_lists_every_file_with_size_and_hash(tmp_path):
    (tmp_path / "resolved.yaml").write_text("stage: sft\n")
    path = save(tmp_path)
    value = json.loads((path / manifest.NAME).read_text())
    assert set(value["files"]) == {p.name for p in path.iterdir()} - {manifest.NAME}
    for name, entry in value["files"].items():
        data = (path / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert value["recipe"] == hashlib.sha256(b"stage: sft\n").hexdigest()
    facts = {key: value[key] for key in ("format", "step", "world", "tunesmith", "torch")}
    assert facts == {
        "format": 1,
        "step": 4,
        "world": 1,
        "tunesmith": __version__,
        "torch": torch.__version__,
    }


def test_a_run_without_a_recipe_has_no_hash(tmp_path):
    assert json.loads((save(tmp_path) / manifest.NAME).read_text())["recipe"] is None


def test_two_saves_have_two_ids(tmp_path):
    ids = {json.loads((save(tmp_path) / manifest.NAME).read_text())["save_id"] for _ in range(3)}
    assert len(ids) == 3


def test_a_reformatted_manifest_is_not_what_was_written(tmp_path):
    path = save(tmp_path)
    assert manifest.verify(path) == []
    text = (path / manifest.NAME).read_text()
    for other in (text + "\n", json.dumps(json.loads(text)), text.replace("\n", "\r\n")):
        (path / manifest.NAME).write_bytes(other.encode())
        assert manifest.verify(path) == ["MANIFEST.json is damaged"]


def test_a_manifest_without_state_is_refused(tmp_path):
    path = save(tmp_path)
    value = json.loads((path / manifest.NAME).read_text())
    del value["files"]["state.json"], value["digest"]
    sealed = {**value, "digest": manifest._digest(value)}
    (path / manifest.NAME).write_bytes(manifest.encode(sealed))
    assert manifest.verify(path) == ["MANIFEST.json does not list state.json"]

"""A model that is not there: the nearest that is."""

from __future__ import annotations

import json

import pytest

from tunesmith.compose import source
from tunesmith.errors import EnvironmentFault


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("builtin:tyni", "builtin:tiny"),
        ("builtin:demo", ""),  # a folder of the package, and no model
        ("tiny", "builtin:tiny"),
        ("./models/stories26K/hf", "models/stories260K/hf"),
        ("./models/stories260K/hff", "models/stories260K/hf"),
        ("my-rn", "my-run"),
        ("mode", "model"),
        ("./nowhere/at/all", ""),
    ],
)
def test_the_nearest_model_is_named(tmp_path, monkeypatch, spec, near):
    monkeypatch.chdir(tmp_path)
    for folder in ("models/stories260K/hf", "model"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
    run = tmp_path / "runs" / "my-run"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"id": "my-run", "state": "done"}))
    with pytest.raises(EnvironmentFault) as caught:
        source.locate(spec)
    assert caught.value.code == "E201"
    said = f"did you mean `{near}`?"
    assert caught.value.fix.startswith(said) if near else "did you mean" not in caught.value.fix

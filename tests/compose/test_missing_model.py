"""A model that is not there: the nearest that is."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tunesmith.cli.main import main
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


def test_weights_in_a_pickle_are_refused_with_a_command_that_converts_them(
    tmp_path, tiny_model, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "old"
    shutil.copytree(tiny_model, old)
    (file,) = old.glob("*.safetensors")
    weights = load_file(file)
    file.unlink()
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2])):
        shard = {name: weights[name] for name in part}
        torch.save(shard, old / f"pytorch_model-{number + 1:05d}-of-00002.bin")
    assert main(["train", f"model={old}", "data.train=x.jsonl"]) == 2
    told = capsys.readouterr().err
    assert "error[E203]" in told
    assert not (tmp_path / "runs").exists()
    command = shlex.split(told.splitlines()[-1])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True)
    made = load_file(old / "model.safetensors")
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[name], weights[name]) for name in names)

"""What compose refuses, and that nothing is left behind when it does."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from tunesmith import compose, recipe
from tunesmith.compose import memory, source
from tunesmith.errors import ConfigError, EnvironmentFault, ResourceError, RunError
from tunesmith.types import Batch


@pytest.fixture
def settings(tiny_model, tmp_path):
    """A recipe that works, as a dict to be spoilt."""
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Say {i}", "completion": f"{i}"} for i in range(16)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": {"path": str(tiny_model)},
        "data": {"train": str(data), "num_proc": 1},
        "train": {"max_steps": 2, "dtype": "float32"},
        "output": {"dir": str(tmp_path / "runs"), "name": "r"},
    }


def run(settings):
    return compose.train(recipe.from_dict(settings))


def refused(settings, kind, code):
    with pytest.raises(kind, match=code):
        run(settings)
    root = settings["output"]["dir"]
    assert not (source.Path(root) / "r").exists()


def test_a_model_is_named_or_drawn_but_not_both(settings):
    settings["model"]["config"] = {"model_type": "llama"}
    with pytest.raises(ConfigError, match=r"C105|C114|C181"):
        run(settings)
    made = recipe.from_dict({**settings, "model": {"path": "x"}})
    both = dataclasses.replace(made.model, config={"model_type": "llama"})
    with pytest.raises(ConfigError, match="C181"):
        compose.train(dataclasses.replace(made, model=both))


def test_a_model_from_scratch_needs_a_tokenizer(settings):
    made = recipe.from_dict(settings)
    scratch = dataclasses.replace(made.model, path=None, config={"model_type": "llama"})
    with pytest.raises(ConfigError, match="C182"):
        compose.train(dataclasses.replace(made, model=scratch))


def test_no_data_is_refused(settings):
    made = recipe.from_dict(settings)
    with pytest.raises(ConfigError, match="C184"):
        compose.train(dataclasses.replace(made, data=dataclasses.replace(made.data, train=())))


def test_negative_noise_is_refused(settings):
    refused(settings | {"stage": {"kind": "sft", "neftune_noise_alpha": -1.0}}, ConfigError, "C183")


def test_a_missing_model_is_refused(settings):
    refused(settings | {"model": {"path": "/nowhere"}}, EnvironmentFault, "E201")


def test_pretraining_needs_eos(settings, tiny_model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    config = json.loads((bare / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    text = tmp_path / "text.txt"
    text.write_text("One line.\nAnother.\n")
    changed = {"model": {"path": str(bare)}, "stage": "pretrain"}
    refused(settings | changed | {"data": {"train": str(text)}}, ConfigError, "C180")


def test_a_finished_run_is_not_resumed_and_a_changed_one_neither(settings):
    done = run(settings)
    with pytest.raises(RunError, match="R203"):
        compose.resume(str(done.path))
    with pytest.raises(ConfigError, match="C190"):
        compose.resume(str(done.path), overrides=("optim.learning_rate=0.5",))
    with pytest.raises(ConfigError, match="depends on its length"):
        compose.resume(str(done.path), overrides=("train.max_steps=900",))


def test_another_machine_is_refused(settings):
    settings["train"]["save_steps"] = 1
    done = run(settings)
    resolved = {**done.info()["resolved"], "device": "cuda"}
    done.update(state="stopped", resolved=resolved)
    with pytest.raises(EnvironmentFault, match="E110"):
        compose.resume(str(done.path))


def test_a_changed_base_is_refused(settings, tiny_model, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    settings["model"]["path"] = str(base)
    settings["train"]["save_steps"] = 1
    done = run(settings)
    done.update(state="stopped")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    with pytest.raises(RunError, match="R202"):
        compose.resume(str(done.path))


def test_a_vanished_base_is_told(settings, tiny_model, tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    settings["model"]["path"] = str(base)
    done = run(settings)
    moved = tmp_path / "moved"
    base.rename(moved)
    with pytest.raises(EnvironmentFault, match="E211"):
        compose.load(str(done.path))
    source.content_hash(source.Source(str(moved), str(moved)))  # once seen, it is found by content
    assert compose.load(str(done.path)).model is not None


def test_too_little_memory_is_told_before_weights_are_read(settings, monkeypatch):
    monkeypatch.setattr(memory, "available_gb", lambda: 0.001)
    with pytest.raises(ResourceError, match="M301") as caught:
        run(settings)
    assert "activation_checkpointing" in caught.value.fix
    assert caught.value.exit_code == 5


def test_a_non_finite_step_stops_before_the_weights(settings, monkeypatch):
    from tunesmith.stages.sft import SftStage
    from tunesmith.types import Loss

    whole = SftStage.loss

    def poisoned(self, model: object, batch: Batch) -> Loss:
        loss = whole(self, model, batch)
        term = loss.terms["loss"]
        return Loss({"loss": term._replace(sum=term.sum * torch.inf)}, loss.metrics)

    monkeypatch.setattr(SftStage, "loss", poisoned)
    with pytest.raises(RunError, match="R201") as caught:
        run(settings)
    assert "rows.jsonl:" in caught.value.where
    info = json.loads((source.Path(settings["output"]["dir"]) / "r" / "run.json").read_text())
    assert info["state"] == "failed"

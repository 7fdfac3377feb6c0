"""Runs on streamed data: resumed bit for bit, and refused where rows would have to be stored."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from tests.compose.test_refusals import run, settings  # noqa: F401
from tunesmith import compose, recipe
from tunesmith.compose import data, inspection, tokenizing
from tunesmith.data import hub
from tunesmith.errors import DataError


@pytest.fixture
def streamed(settings):  # noqa: F811
    settings["data"] |= {"streaming": True, "buffer_size": 5}
    settings["train"] |= {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "save_steps": 3,
        "logging_steps": 1,
    }
    return settings


def weights(directory):
    return {
        name: tensor
        for file in sorted((directory.path / "final").glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_a_stopped_run_goes_on_bit_for_bit(streamed):
    streamed["optim"] = {"lr_scheduler_type": "constant"}  # else max_steps may not change
    whole = run(streamed)
    streamed["output"]["name"] = "stopped"
    streamed["train"]["max_steps"] = 3
    part = run(streamed)
    part.update(state="stopped")
    again = compose.resume(str(part.path), overrides=("train.max_steps=6",))
    losses = lambda one: [line["loss"] for line in one.metrics() if "loss" in line]
    assert losses(again) == losses(whole)
    ours, theirs = weights(again), weights(whole)
    assert ours.keys() == theirs.keys()
    assert ours
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_what_streaming_needs_is_told_before_a_run(streamed):
    streamed["train"]["max_steps"] = None
    with pytest.raises(DataError, match=r"D215(.|\n)*max_steps"):
        run(streamed)
    streamed["train"]["max_steps"] = 2
    with pytest.raises(DataError, match=r"D216(.|\n)*evaluation rows"):
        run({**streamed, "data": {**streamed["data"], "eval": {"count": 2}}})
    with pytest.raises(DataError, match=r"D216(.|\n)*pairs"):
        run({**streamed, "stage": "dpo"})


def test_evaluation_rows_come_from_a_file(streamed, tmp_path):
    other = tmp_path / "eval.jsonl"
    other.write_text('{"prompt": "Say x", "completion": "x"}\n')
    streamed["data"]["eval"] = str(other)
    streamed["eval"] = {"steps": 3}
    assert any("eval_loss" in line for line in run(streamed).metrics())


def test_to_store_is_to_read_everything(streamed, tmp_path):
    made = recipe.from_dict(streamed)
    found = tokenizing.to_store(made, tmp_path / "tokens", replace=False)
    assert found["rows"] == 16


def test_a_set_of_the_hub_is_read_and_pinned_but_not_copied(streamed, tmp_path, monkeypatch):
    rows = [{"prompt": f"Say {i}", "completion": f"{i}"} for i in range(16)]
    asked = []

    def load(source, at, split, cache_dir, *, streaming):
        asked.append((source.revision, streaming))
        return "abc", iter(rows)

    monkeypatch.setattr(hub, "_load", load)
    monkeypatch.setattr(hub, "_commit", lambda source, at: "c0ffee")
    streamed["data"]["train"] = "hf:org/set"
    done = run(streamed)
    kept = recipe.load(str(done.path / "resolved.yaml"), environ={})
    assert kept.data.train[0].revision == "c0ffee"
    assert {streaming for _, streaming in asked} == {True}
    report = json.loads((done.path / "data_report.json").read_text())["train"]
    assert report["rows"] == 16
    found = inspection.inspect(recipe.from_dict(streamed))
    assert found["summary"]["rows"] == 16
    assert inspection.check(recipe.from_dict(streamed))["findings"]


def test_only_sets_are_streamed_single_files_are_fetched(streamed, monkeypatch):
    fetched = []
    monkeypatch.setattr(data.catalogue, "local", lambda one, *rest: fetched.append(one.path) or one)
    streamed["data"]["train"] = ["hf:org/set", "hf:org/set/a.jsonl", "b.jsonl"]
    data.local(recipe.from_dict(streamed))
    assert fetched == ["hf:org/set/a.jsonl", "b.jsonl"]

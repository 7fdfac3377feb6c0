"""`tunesmith model info`: the table adds up, without reading weights."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.exporting.models import make, train
from tunesmith.cli.main import main


def told(capsys, *words):
    assert main(["model", "info", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def children(rows, at):
    """Rows right below row `at`."""
    found = []
    for row in rows[at + 1 :]:
        if row["depth"] <= rows[at]["depth"]:
            break
        if row["depth"] == rows[at]["depth"] + 1:
            found.append(row)
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_level_adds_up_to_the_whole(family, tied, tmp_path, capsys):
    base = make(family, tmp_path / "base", tied=tied, dtype=torch.bfloat16)
    found = told(capsys, str(base), "--depth", "5")
    rows = found["layers"]
    model = AutoModelForCausalLM.from_pretrained(base)
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert rows[0]["parameters"] == found["parameters"]
    for at, row in enumerate(rows):
        below = children(rows, at)
        if below:
            assert sum(child["parameters"] for child in below) == row["parameters"], row
            assert sum(child["ratio"] for child in below) == pytest.approx(row["ratio"])
    assert rows[0]["ratio"] == 1
    size = (base / "model.safetensors").stat().st_size / 1e6
    assert rows[0]["memory_mb"] == pytest.approx(size, rel=0.1)
    assert list(found["stored_mb"]) == ["bfloat16"]


def test_tied_weights_are_counted_once_and_marked(tmp_path, capsys):
    rows = told(capsys, str(make("llama", tmp_path / "base")))["layers"]
    head = next(row for row in rows if "lm_head" in row["layer"])
    assert head["layer"].strip() == "lm_head (shared)"
    assert head["parameters"] == 0


def test_equal_layers_are_one_line(tmp_path, capsys):
    found = told(capsys, str(make("llama", tmp_path / "base")))
    names = [row["layer"].strip() for row in found["layers"]]
    assert "model.layers.0–1" in names
    assert "model.layers.0" not in names


def test_what_people_read(tiny_model, capsys):
    assert main(["model", "info", str(tiny_model), "--depth", "1"]) == 0
    shown = capsys.readouterr().out
    assert "LAYER NAME" in shown
    assert "100.00%" in shown
    assert "260 tokens · 260 embedding rows, tied to the head" in shown
    assert "<|im_end|> (259)" in shown
    assert "context   512" in shown


def test_an_adapter_is_told_over_its_base(tmp_path, capsys):
    base = make("llama", tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"], r=4)
    found = told(capsys, str(tmp_path / "adapter"))
    [adapter] = found["adapters"]
    assert (adapter["kind"], adapter["r"], adapter["modules"]) == ("LORA", 4, 4)
    # q: 32→32, v: 32→16, two layers
    assert adapter["parameters"] == 2 * 4 * ((32 + 32) + (32 + 16))
    assert main(["model", "info", str(tmp_path / "adapter")]) == 0
    assert "LORA r=4 on 4 modules" in capsys.readouterr().out
    assert found["template"] is None


def test_a_model_that_is_not_there(capsys):
    assert main(["model", "info", "./nowhere"]) == 2
    assert "E201" in capsys.readouterr().err


def test_a_hub_model_while_offline(capsys):
    assert main(["model", "info", "nobody-here/no-such-model"]) == 2
    assert "E202" in capsys.readouterr().err

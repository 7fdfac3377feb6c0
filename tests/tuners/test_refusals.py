"""Settings of tuners that name nothing, or files that don't fit, are refused with their code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from tunesmith import registry
from tunesmith.errors import ConfigError, EnvironmentFault


@pytest.fixture
def model(tiny_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def tuner(kind: str, **fields):
    cls = registry.load("tuners", kind)
    return cls.build(cls.Config(**fields))


@pytest.mark.parametrize(("kind", "fields", "code"), [
    ("lora", {"r": 0}, "C170"),
    ("lora", {"lora_dropout": 1.0}, "C170"),
    ("lora", {"target_modules": ("q_prj",)}, "C171"),
    ("lora", {"modules_to_save": ("head",)}, "C172"),
    ("freeze", {"modules": ("nothing",)}, "C172"),
    ("freeze", {"num_layers": 3}, "C173"),
    ("freeze", {"num_layers": 0}, "C174"),
])  # fmt: skip
def test_settings_that_fit_no_model(model, kind, fields, code):
    with pytest.raises(ConfigError) as caught:
        tuner(kind, **fields).apply(model)
    assert caught.value.code == code
    assert caught.value.fix


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_nothing_saved_there(model, tmp_path, kind):
    made = tuner(kind)
    made.apply(model)
    with pytest.raises(EnvironmentFault) as caught:
        made.load(model, tmp_path)
    assert caught.value.code == "E209"


def test_weights_of_another_model(model, tmp_path):
    save_file({"model.norm.weight": torch.ones(7)}, tmp_path / "model.safetensors")
    with pytest.raises(EnvironmentFault) as caught:
        tuner("full").load(model, tmp_path)
    assert caught.value.code == "E210"


def test_an_adapter_of_another_kind(model, tmp_path):
    made = tuner("lora", r=2)
    made.apply(model)
    made.save(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(EnvironmentFault) as caught:
        made.load(model, tmp_path)
    assert caught.value.code == "E210"

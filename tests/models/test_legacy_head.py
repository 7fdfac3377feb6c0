"""Reward models of older systems become today's: head, adapter and config, and score the same."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tunesmith.cli.main import main
from tunesmith.errors import ExportError
from tunesmith.models import legacy_head

WIDTH = 32


@pytest.fixture
def weight():
    torch.manual_seed(3)
    return torch.randn(1, WIDTH)


@pytest.mark.parametrize(
    "name", ["summary.weight", "v_head.summary.weight", "score.weight", "module.v_head.weight"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_head_under_any_name(name, bias, weight, tmp_path):
    old = {name: weight.half()}
    if bias:
        old[name.removesuffix("weight") + "bias"] = torch.tensor([0.5])
    torch.save(old, tmp_path / "value_head.bin")
    facts = legacy_head.convert(tmp_path / "value_head.bin", tmp_path / "new")
    found = load_file(tmp_path / "new" / "score.safetensors")
    assert torch.equal(found["score.weight"], weight.half().float())
    assert facts["bias"] == (0.5 if bias else None)
    assert ("score.bias" in found) == bias


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora_A.weight": torch.ones(2, 2)},
        {"summary.weight": torch.ones(2, WIDTH)},
        {"a.summary.weight": torch.ones(1, 2), "b.summary.weight": torch.ones(1, 2)},
    ],
)
def test_no_head_or_several(tensors, tmp_path):
    torch.save(tensors, tmp_path / "value_head.bin")
    with pytest.raises(ExportError) as caught:
        legacy_head.convert(tmp_path, tmp_path / "new")
    assert caught.value.code == "X314"
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_and_a_folder_that_is_there(tmp_path):
    for new, code in ((tmp_path / "new", "X314"), (tmp_path, "X315")):
        with pytest.raises(ExportError) as caught:
            legacy_head.convert(tmp_path, new)
        assert caught.value.code == code


def test_an_old_reward_model_scores_as_peft_and_its_head_do(tiny_model, weight, tmp_path, capsys):
    """The layout of the older system: adapter_config.json, adapter_model.bin, value_head.bin."""
    from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer

    old = tmp_path / "old"
    torch.manual_seed(1)
    names = ["q_proj", "v_proj"]
    config = LoraConfig(r=4, target_modules=names, init_lora_weights=False, task_type="CAUSAL_LM")
    model: PeftModel = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    model.peft_config["default"].save_pretrained(old)
    torch.save(get_peft_model_state_dict(model), old / "adapter_model.bin")
    bias = torch.tensor([0.25])
    torch.save({"summary.weight": weight, "summary.bias": bias}, old / "value_head.bin")
    config_file = old / "adapter_config.json"
    fields = json.loads(config_file.read_text()) | {"base_model_name_or_path": str(tiny_model)}
    config_file.write_text(json.dumps(fields))

    new = tmp_path / "new"
    assert main(["model", "convert-head", str(old), "-o", str(new), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] == 8
    pair = {"prompt": "hi", "chosen": "yes", "rejected": "no, never"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    words = ["score", str(new), str(tmp_path / "pairs.jsonl"), "-o", str(tmp_path / "out.jsonl")]
    assert main([*words, "--dtype", "float32"]) == 0
    found = json.loads((tmp_path / "out.jsonl").read_text())

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for side in ("chosen", "rejected"):
        talk = [("user", pair["prompt"]), ("assistant", pair[side])]
        turns = [{"role": role, "content": text} for role, text in talk]
        text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            hidden_D = model.base_model.model.model(ids).last_hidden_state[0, -1]
        assert found[side] == pytest.approx(float(weight[0] @ hidden_D + bias), abs=1e-5)

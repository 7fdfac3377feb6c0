"""The estimate of memory counts every model a run holds, and what sampling adds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.stages.sampling_runs import recipe_of
from tunesmith import compose, recipe
from tunesmith.compose import memory, model, plan

PPO = {"kind": "ppo", "rewards": ["exact_match"], "max_completion_length": 8}


@pytest.fixture
def weights(tiny_model) -> float:
    """Gigabytes of the tiny model in float32."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(tiny_model)
    return sum(p.numel() for p in hf.parameters()) * 4 / 1e9


@pytest.fixture
def judge(tiny_model, tmp_path):
    """A folder that looks like a reward model: the weights and a head."""
    path = tmp_path / "judge"
    shutil.copytree(tiny_model, path)
    save_file({"score.weight": np.zeros((1, 32), np.float32)}, path / "score.safetensors")
    return path


def estimated(path, folder, stage, **changes) -> dict[str, float]:
    folder.mkdir(exist_ok=True)
    return plan.estimate(recipe_of(path, folder, stage, **changes), probe=False)["memory_gb"]


@pytest.mark.parametrize(
    ("tuner", "changes", "copies"),
    [("full", {}, 1), ("full", {"kl_coef": 0}, 0), ({"kind": "lora", "r": 4}, {}, 0)],
    ids=["full", "full without a KL", "lora"],
)
def test_the_reference_is_a_copy_where_no_adapter_can_be_switched_off(
    tuner, changes, copies, tiny_model, tmp_path, weights
):
    found = estimated(tiny_model, tmp_path, {**PPO, **changes}, tuner=tuner)
    assert found["beside"] == pytest.approx(copies * weights, abs=1e-3)
    assert memory.other_models(recipe_of(tiny_model, tmp_path, PPO)) == []


def beside(made) -> float:
    return memory.memory(made, model.origin(made), "float32", 100).beside


def test_reward_models_and_teachers_are_counted(tiny_model, tmp_path, weights, judge):
    lora = {"kind": "lora", "r": 4}
    stage = {**PPO, "rewards": [str(judge), "exact_match", str(judge)]}
    assert beside(recipe_of(tiny_model, tmp_path, stage, tuner=lora)) == 2 * weights
    stage = {"kind": "distill", "teacher": str(tiny_model)}
    assert beside(recipe_of(tiny_model, tmp_path, stage, tuner=lora)) == weights
    assert beside(recipe_of(tiny_model, tmp_path, {"kind": "sft"}, tuner=lora)) == 0


def test_a_model_from_scratch_is_counted_by_its_recipe(tiny_model, tmp_path, weights):
    """Its checkpoint names no base."""
    made = recipe.to_dict(recipe_of(tiny_model, tmp_path, {"kind": "sft"}, "fresh"))
    config = json.loads((tiny_model / "config.json").read_text())
    made["model"] = {"config": config, "tokenizer": str(tiny_model)}
    made["train"] |= {"max_steps": 1, "save_steps": 1}
    run = compose.train(recipe.from_dict(made))
    found = memory.skeleton_of(f"{run.path}@step-1", "runs/")
    assert sum(p.numel() for p in found.parameters()) * 4 / 1e9 == pytest.approx(weights)


def test_a_teacher_reads_with_one_layer_at_a_time(tiny_model, tmp_path):
    stage = {"kind": "distill", "teacher": str(tiny_model)}
    taught, alone = (
        memory.memory(made, model.origin(made), "float32", 100).activations
        for made in (recipe_of(tiny_model, tmp_path, one) for one in (stage, {"kind": "sft"}))
    )
    layers = 2  # of conftest's tiny model, which is its own teacher here
    assert taught == pytest.approx(alone * (1 + 1 / layers))


class Rows:
    lengths = np.array([10, 20, 30, 5])


TOGETHER = memory.Layout(padded=False, shared=True)
APART = memory.Layout(padded=False, shared=False)
PADDED = memory.Layout(padded=True, shared=False)


def test_answers_and_the_limit_on_a_pass(tiny_model, tmp_path):
    """Rows of a stage that samples are prompts with all their answers."""
    plain = estimated(tiny_model, tmp_path, {"kind": "sft"})
    assert plain["answers"] == 0
    assert memory.with_answers(recipe_of(tiny_model, tmp_path, PPO), 100, 3, TOGETHER) == 124

    grpo = {"kind": "grpo", "rewards": ["exact_match"], "num_generations": 4}
    cut = lambda limit, laid=TOGETHER: memory.largest_batch(
        recipe_of(tiny_model, tmp_path, grpo, train={"max_forward_tokens": limit}), Rows, laid
    )
    whole = 65 + 4 * 4 * 8
    assert cut(None) == whole
    assert cut(100) == 100
    assert cut(1) == 30 + 4 * 8  # a prompt with its answers is never cut
    assert cut(1000) == whole
    assert cut(None, APART) == 4 * 65 + 4 * 4 * 8  # every answer has its own prompt
    assert cut(1, APART) == 4 * 30 + 4 * 8
    assert cut(None, PADDED) == 4 * 4 * 30 + 4 * 4 * 8


def test_the_layout_is_that_of_the_run(tiny_model, tmp_path, monkeypatch):
    """A window forbids shared prompts: the estimate says so as the run does, and grows."""
    from transformers import MistralConfig, MistralForCausalLM

    from tunesmith.training import loop

    windowed = tmp_path / "windowed"
    shutil.copytree(tiny_model, windowed)
    config = MistralConfig(
        vocab_size=json.loads((tiny_model / "config.json").read_text())["vocab_size"],
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(windowed)
    seen = {}

    def fit(run):
        seen["layout"], run.step = run.loader.layout, run.total_steps

    monkeypatch.setattr(loop, "fit", fit)
    grpo = {"kind": "grpo", "rewards": ["exact_match"], "num_generations": 4}
    for path, wanted in ((tiny_model, TOGETHER), (windowed, APART)):
        made = recipe_of(path, tmp_path, grpo, path.name)
        assert memory.layout(made, model.origin(made), "float32") == wanted
        compose.train(made)
        assert seen["layout"] == {"padded": wanted.padded, "share_prompts": wanted.shared}


def test_keys_and_values_are_bounded(tiny_model, tmp_path):
    long = {**PPO, "max_completion_length": 10**9, "critic_pull": None}
    made = recipe_of(tiny_model, tmp_path, long)
    need = memory.memory(made, model.origin(made), "float32", 100)
    assert need.answers == pytest.approx(2**30 / 1e9)
    made = recipe_of(tiny_model, tmp_path, PPO, data={"max_length": 100})
    need = memory.memory(made, model.origin(made), "float32", 100)
    layers, heads, size = 2, 2, 8  # of conftest's tiny model
    cached = 32 * 108 * layers * 2 * heads * size * 4
    width, tokens = 32, 4 * 8  # four prompts, eight tokens each
    fitted = 4 * width * tokens + 3 * 8 * (2 * width + 2) ** 2
    assert need.answers == pytest.approx((cached + fitted) / 1e9)
    made = recipe_of(tiny_model, tmp_path, {**PPO, "critic_pull": None}, data={"max_length": 100})
    need = memory.memory(made, model.origin(made), "float32", 100)
    assert need.answers == pytest.approx(cached / 1e9)

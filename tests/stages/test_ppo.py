"""PPO equals a plain second implementation, keeps its critic to itself, and minds its red lines."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.stages.plain_ppo import Answer, PlainPpo, Settings
from tests.stages.sampling_runs import Lines, recipe_of, train
from tunesmith import compose
from tunesmith.errors import ConfigError, EnvironmentFault, RunError
from tunesmith.training import checkpoint

LENGTH = [{"path": "length", "argument": "5"}]
SETTINGS = {
    "default": {},
    "warm, curious, short-sighted": {"temperature": 0.7, "entropy_coef": 0.02, "lam": 0.5},
    "a critic that is never fitted": {"critic_pull": None, "cliprange_value": 0.2},
    "tight": {"cliprange": 0.01, "cliprange_value": 0.01, "vf_coef": 1.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_equals_a_plain_implementation(name, tiny_model, tmp_path, seen):
    from transformers import AutoModelForCausalLM

    own = SETTINGS[name]
    plain = Settings(
        temperature=own.get("temperature", 1.0),
        entropy_coef=own.get("entropy_coef", 0.0),
        lam=own.get("lam", 0.9),
        clip=own.get("cliprange", 0.2),
        clip_value=own.get("cliprange_value"),
        pull=own.get("critic_pull", 2.0),
        vf_coef=own.get("vf_coef", 0.1),
    )
    stage = {"kind": "ppo", "rewards": LENGTH, "kl_coef": 0.1, "gamma": 0.97, "lam": 0.9,
             "num_ppo_epochs": 2, "num_mini_batches": 2, **own}  # fmt: skip
    run = train(tiny_model, tmp_path, stage, train={"max_steps": 8})
    peer = PlainPpo(AutoModelForCausalLM.from_pretrained(tiny_model), plain)
    wanted = []
    for _, _, answers in seen:
        rows = [
            Answer(list(one.ids), len(one.ids) - one.tokens, -abs(one.tokens - 5) / 5)
            for one in answers
        ]
        wanted += peer.round(rows)
    found = [line for line in run.metrics() if "loss" in line]
    assert len(found) == len(wanted) == 8
    for key in ("loss", "policy", "value"):
        values = [line[key] for line in found]
        assert values == pytest.approx([line[key] for line in wanted], rel=1e-3, abs=2e-5), key
    trained = load_file(run.model_path() / "model.safetensors")
    before = load_file(tiny_model / "model.safetensors")
    for weight, tensor in peer.model.state_dict().items():
        if weight in trained:
            moved = (trained[weight] - before[weight]).norm()
            assert (trained[weight] - tensor).norm() < 0.01 * moved, weight
    critic = load_file(run.model_path() / "value.safetensors")
    assert critic.keys() == {"value.weight", "value.past", "value.time"}
    for key, tensor in (("weight", peer.critic), ("past", peer.past), ("time", peer.time)):
        value = critic[f"value.{key}"].flatten()
        assert value.norm() > 0
        assert (value - tensor.detach()).norm() < 0.01 * tensor.norm(), key


@pytest.mark.parametrize("tuner", ["full", "freeze", {"kind": "lora", "r": 4}])
def test_the_reference_is_the_model_before_training(tuner, tiny_model, tmp_path, seen):
    stage = {"kind": "ppo", "rewards": LENGTH, "num_ppo_epochs": 2}
    run = train(
        tiny_model,
        tmp_path,
        stage,
        tuner=tuner,
        train={"max_steps": 6},
        optim={"learning_rate": 1e-2},
    )
    kl = [line["answer_kl"] for line in run.metrics() if "answer_kl" in line]
    assert kl[0] == pytest.approx(0, abs=1e-5)
    assert abs(kl[-1]) > 1e-3
    ran, made, _ = seen[-1]
    from transformers import AutoModelForCausalLM

    from tunesmith.stages.experience_impl import reference_log_probabilities

    hf = AutoModelForCausalLM.from_pretrained(tiny_model)
    found = reference_log_probabilities(ran, made, 1.0)
    for at, (example,) in enumerate(made.items):
        ids = torch.tensor(example.ids_T[None].astype(np.int64))
        start = int(np.flatnonzero(example.weights_T)[0])
        with torch.no_grad():
            logprobs = hf(ids).logits[0].log_softmax(-1)
        wanted = [logprobs[t - 1, ids[0, t]].item() for t in range(start, ids.shape[1])]
        assert found[at, 0, : len(wanted)] == pytest.approx(wanted, abs=1e-4)


# ---------------------------------------------------------------- a reward model


@pytest.fixture
def reward_run(tiny_model, tmp_path):
    """A reward model of a few steps, by tuner."""

    def make(tuner):
        from tunesmith import recipe

        made = recipe.to_dict(recipe_of(tiny_model, tmp_path, {"kind": "ppo"}, "rm", tuner=tuner))
        pairs = tmp_path / "pairs.jsonl"
        rows = [{"prompt": f"{i}?", "chosen": f"{i} yes", "rejected": f"{i} no"} for i in range(16)]
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made |= {"stage": {"kind": "reward"}}
        made["data"] |= {"train": [{"path": str(pairs)}]}
        made["train"] |= {"max_steps": 3, "save_steps": 3}
        return compose.train(recipe.from_dict(made))

    return make


@pytest.mark.parametrize("tuner", ["full", {"kind": "lora", "r": 4}])
def test_a_reward_model_scores_and_stays_apart_from_policy_and_critic(
    tuner,
    reward_run,
    tiny_model,
    tmp_path,
    seen,
):
    judge = reward_run(tuner)
    head = load_file(judge.model_path() / "score.safetensors")["score.weight"]
    stage = {"kind": "ppo", "rewards": [str(judge.path)], "num_ppo_epochs": 2}
    lines = Lines()
    run = train(tiny_model, tmp_path, stage, tuner=tuner, display=lines, train={"max_steps": 4})
    assert any("a reward model, loaded beside" in said for said in lines.said)
    after = load_file(judge.model_path() / "score.safetensors")["score.weight"]
    assert torch.equal(head, after)
    critic = load_file(run.model_path() / "value.safetensors")["value.weight"]
    assert critic.abs().max() > 0
    assert not torch.allclose(critic, head)
    ran, made, answers = seen[-1]
    value, policy = ran.stage.critic.weight.detach().clone(), {
        name: p.detach().clone() for name, p in ran.hf.named_parameters()
    }  # fmt: skip
    scores = ran.stage.scores(answers).total_N
    assert torch.equal(ran.stage.critic.weight, value)
    assert all(torch.equal(p, policy[name]) for name, p in ran.hf.named_parameters())
    assert scores == pytest.approx(_scored_by_hand(judge, answers), abs=1e-4)
    assert made.columns["reward"].shape == (4, 1)


def _scored_by_hand(judge, answers) -> list[float]:
    """The head on the last token's hidden state, one answer at a time, by PEFT or transformers."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    final = judge.model_path()
    head = load_file(final / "score.safetensors")["score.weight"][0]
    if (final / "adapter_config.json").is_file():
        base = json.loads((final / "adapter_config.json").read_text())["base_model_name_or_path"]
        body = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), final)
        body = body.base_model.model.model
    else:
        body = AutoModelForSequenceClassification.from_pretrained(final).model
    with torch.no_grad():
        ends = [body(torch.tensor([one.ids])).last_hidden_state[0, -1] for one in answers]
    return [float(end @ head) for end in ends]


def test_what_is_no_reward_model_is_refused_before_any_weight_is_read(tiny_model, tmp_path):
    with pytest.raises(ConfigError) as caught:
        train(tiny_model, tmp_path, {"kind": "ppo", "rewards": [str(tiny_model)]})
    assert caught.value.code == "C228"


def test_a_reward_model_that_is_not_there_is_told_of_the_rewards(tiny_model, tmp_path):
    with pytest.raises(EnvironmentFault) as caught:
        train(tiny_model, tmp_path, {"kind": "ppo", "rewards": ["run:nope"]})
    assert (caught.value.code, caught.value.where) == ("E201", "stage.rewards")


def test_an_unfinished_reward_run_must_be_named_with_its_step(reward_run, tmp_path):
    judge = reward_run("lora")
    shutil.rmtree(judge.path / "final")
    with pytest.raises(ConfigError, match="is not finished") as caught:
        train(recipe_model(judge), tmp_path, {"kind": "ppo", "rewards": [str(judge.path)]})
    assert caught.value.code == "C228"


def test_a_reward_model_of_other_tokens_is_refused(reward_run, tmp_path):
    judge = reward_run("full")
    config = judge.model_path() / "tokenizer.json"
    config.write_text(config.read_text().replace('"<|eot|>"', '"<|other|>"'))
    with pytest.raises(ConfigError) as caught:
        train(recipe_model(judge), tmp_path, {"kind": "ppo", "rewards": [str(judge.path)]})
    assert caught.value.code == "C229"


def recipe_model(run) -> str:
    """The model a run was trained from."""
    return run.info()["base"]["path"]


# ---------------------------------------------------------------- red lines, refusals


def test_a_red_line_warns_or_stops(tiny_model, tmp_path):
    stage = {"kind": "ppo", "rewards": LENGTH, "kl_limit": 1e-4, "num_ppo_epochs": 4}
    lines = Lines()
    changes = {"train": {"max_steps": 12}, "optim": {"learning_rate": 1e-2}}
    run = train(tiny_model, tmp_path, stage, "warned", display=lines, **changes)
    told = [said for said in lines.said if "KL to the reference" in said]
    assert told
    kept = [event for event in run.events() if event["kind"] == "red line"]
    assert [
        f"stage: step {one['step']}: {one['text']}" for one in kept if one["line"] == "kl"
    ] == told
    remarks = lines.summary["remarks"]
    assert "KL went beyond its line of 0.0001 nats from step 4 on" in remarks
    saved = [line["reward_std"] for line in run.metrics() if "reward_std" in line]
    assert len(saved) == 12
    assert all(value >= 0 for value in saved)
    assert max(saved) > 0
    with pytest.raises(RunError) as caught:
        train(tiny_model, tmp_path, {**stage, "on_health": "stop"}, "stopped", **changes)
    assert caught.value.code == "R245"


def test_a_checkpoint_of_an_older_critic_is_refused_and_its_policy_read(tiny_model, tmp_path):
    """Before the critic saw earlier tokens its checkpoints had one tensor of it, `value.weight`."""
    run = train(tiny_model, tmp_path, {"kind": "ppo", "rewards": LENGTH}, train={"save_steps": 4})
    saved = checkpoint.open_step(run.path, 4)
    older = {n: t for n, t in saved.weights().items() if n not in ("value.past", "value.time")}
    checkpoint.discard_after(run.path, 4)
    parts = {"optimizer": saved.optimizer(), "state": saved.state, "limit": None, "best": None}
    checkpoint.save(run.path, 4, weights=older, **parts)
    shutil.rmtree(run.path / "final")
    with pytest.raises(RunError) as caught:
        compose.resume(str(run.path), overrides=["train.max_steps=12"])
    assert caught.value.code == "R246"
    assert "`value.past` is missing" in caught.value.what
    policy = compose.load(f"{run.path}@step-4", dtype="float32").model
    for name, tensor in policy.hf.named_parameters():
        assert torch.equal(tensor, older[name])


def test_cut_answers_cost_and_scores_are_normalised(tiny_model, tmp_path):
    stage = {"kind": "ppo", "rewards": LENGTH, "missing_eos_penalty": 3.0, "normalize_scores": True,
             "kl_target": 0.5}  # fmt: skip
    run = train(tiny_model, tmp_path, stage, train={"max_steps": 8, "save_steps": 8})
    state = checkpoint.open_step(run.path, 8).state["stage"]
    lines = [line for line in run.metrics() if "reward" in line]
    mean = np.mean([lines[0]["reward"] - 3 * lines[0]["cut_share"],
                    lines[4]["reward"] - 3 * lines[4]["cut_share"]])  # fmt: skip
    assert state["moments"]["count"] == 8
    assert state["moments"]["mean"] == pytest.approx(mean, rel=1e-5)
    assert state["kl_coef"] != 0.05


@pytest.mark.parametrize(
    ("field", "value"),
    [("cliprange", 0), ("cliprange_value", 0), ("critic_pull", 0), ("lam", 1.5), ("kl_coef", -1),
     ("num_ppo_epochs", 0), ("kl_target", 0), ("temperature", 0), ("missing_eos_penalty", -1)],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(field, value, tiny_model, tmp_path):
    with pytest.raises(ConfigError) as caught:
        train(tiny_model, tmp_path, {"kind": "ppo", field: value})
    assert caught.value.code == "C227"

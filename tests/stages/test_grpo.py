"""GRPO and RLOO: what is sampled is what is trained, and losses are their papers'."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.laws.conftest import groups, sampled, samples
from tests.stages.sampling_runs import recipe_of, train
from tunesmith import compose, registry
from tunesmith.data.collate import collate_items
from tunesmith.errors import ConfigError, RunError
from tunesmith.models.language_model import LanguageModel
from tunesmith.stages import experience_impl as experience
from tunesmith.stages.base import build
from tunesmith.templates.base import load
from tunesmith.training.loop import total, total_units
from tunesmith.types import Conversation, Parts

LENGTH = [{"path": "length", "argument": "5"}]
GRPO = {"kind": "grpo", "rewards": LENGTH, "num_generations": 3}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_behaviour_log_probabilities_are_those_the_generator_sampled_with(
    temperature,
    tiny_model,
    tmp_path,
    seen,
):
    stage = {**GRPO, "temperature": temperature}
    train(tiny_model, tmp_path, stage, tuner={"kind": "lora", "r": 4}, train={"max_steps": 2})
    run, _, _ = seen[-1]
    told: dict[str, list] = {}
    generate = run.generator.generate
    run.generator.generate = lambda requests: told.setdefault("events", generate(requests))
    made = run.stage.roll_out(run, 0)
    found = experience.log_probabilities(run, made, 1.0)
    events = list(told["events"].values())
    for at, answer in enumerate(events):
        spoken = [event.logprob for event in answer]
        assert found[at // 3, at % 3, : len(spoken)] == pytest.approx(spoken, abs=1e-4)
    warm = experience.log_probabilities(run, made, temperature)
    example = made.items[0][0]
    ids = torch.tensor(example.ids_T[None].astype(np.int64))
    run.hf.eval()
    logprobs = (run.hf(ids).logits[0] / temperature).log_softmax(-1)
    start = experience.border(example)
    wanted = [logprobs[t - 1, ids[0, t]].item() for t in range(start, ids.shape[1])]
    assert warm[0, 0, : len(wanted)] == pytest.approx(wanted, abs=1e-4)


def test_answers_are_a_function_of_seed_round_place_and_number(tiny_model, tmp_path, seen):
    train(tiny_model, tmp_path, GRPO, train={"max_steps": 1})
    run, _, _ = seen[-1]
    again, next_round = run.stage.roll_out(run, 0), run.stage.roll_out(run, 1)
    ids = lambda one: [e.ids_T.tolist() for item in one.items for e in item]
    other = run.stage.roll_out(run, 0)
    assert ids(again) == ids(other)
    assert ids(again) != ids(next_round)
    assert len({tuple(e.ids_T.tolist()) for e in again.items[0]}) > 1


def test_the_first_update_of_a_round_has_ratio_1_and_later_ones_move(tiny_model, tmp_path):
    stage = {**GRPO, "num_iterations": 3, "beta": 0.1}
    run = train(tiny_model, tmp_path, stage, train={"max_steps": 6}, optim={"learning_rate": 1e-2})
    lines = [line for line in run.metrics() if "ratio" in line]
    ratios = [line["ratio"] for line in lines]
    assert ratios[0] == pytest.approx(1, abs=1e-5)
    assert ratios[3] == pytest.approx(1, abs=1e-5)
    assert abs(ratios[2] - 1) > 1e-4
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines[-1]["kl"] > 0


# ---------------------------------------------------------------- losses


def a_stage(tiny_model, kind="grpo", **fields):
    config = registry.load("stages", kind).Config(num_generations=3, **fields)
    return build(config, Parts(load("auto", tiny_model), 256, "truncate"))


@pytest.fixture
def scene(tiny_model):
    """Items and columns of a round, and a model in float64."""
    from transformers import AutoModelForCausalLM

    stage = a_stage(tiny_model)
    encoded = stage.encode(samples(Conversation))
    items = groups([e.examples[0] for e in encoded], 3)
    hf = AutoModelForCausalLM.from_pretrained(tiny_model).double()
    return items, sampled(items), LanguageModel(hf).eval()


def lay(scene, rows, **layout):
    items, columns, _ = scene
    chosen = {name: values[list(rows)] for name, values in columns.items()}
    return collate_items([items[row] for row in rows], columns=chosen, **layout)


def plain(scene, kind: str, beta: float, longest: int, weighed: bool) -> float:
    """The loss of all items by full logits and loops."""
    items, columns, model = scene
    each, tokens = [], 0
    for at, item in enumerate(items):
        for number, example in enumerate(item):
            ids = torch.tensor(example.ids_T[None].astype(np.int64))
            logprobs = model.hf(ids).logits[0].log_softmax(-1)
            start, values = experience.border(example), []
            for place, t in enumerate(range(start, ids.shape[1])):
                now = logprobs[t - 1, ids[0, t]].item()
                ratio = np.exp(now - columns["old_logprobs"][at, number, place])
                advantage = columns["advantages"][at, number]
                cut = min(max(ratio, 1 - 0.2), 1 + 0.28) * advantage
                gap = columns["reference_logprobs"][at, number, place] - now
                values.append(
                    -min(ratio * advantage, cut)
                    + beta * (ratio if weighed else 1) * (np.exp(gap) - gap - 1)
                )
            each.append(values)
            tokens += len(values)
    if kind == "grpo":
        return float(np.mean([np.mean(values) for values in each]))
    divisor = len(each) * longest if kind == "dr_grpo" else tokens
    return sum(map(sum, each)) / divisor


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo", "bnpo"])
@pytest.mark.parametrize(("beta", "weighed"), [(0.0, True), (0.3, True), (0.3, False)])
def test_losses_are_those_of_plain_loops_in_any_layout(kind, beta, weighed, tiny_model, scene):
    fields = {
        "use_bias_correction_kl": weighed,
        "loss_type": kind,
        "beta": beta,
        "epsilon_high": 0.28,
        "max_completion_length": 50,
    }
    stage = a_stage(tiny_model, **fields)
    wanted = plain(scene, kind, beta, 50, weighed)
    layouts = [
        [lay(scene, range(4))],
        [lay(scene, [row]) for row in range(4)],
        [lay(scene, [3, 1]), lay(scene, [0, 2], padded=True)],
        [lay(scene, range(4), share_prompts=True)],
    ]
    for step in layouts:
        units = total_units(step)
        found = sum(total(stage.loss(scene[2], batch), units).item() for batch in step)
        assert found == pytest.approx(wanted, rel=1e-9)


def test_rloo_weighs_whole_answers(tiny_model, scene):
    stage = a_stage(tiny_model, "rloo", num_iterations=2)
    items, columns, model = scene
    batch = lay(scene, range(4), share_prompts=True)
    found = total(stage.loss(model, batch), batch.units).item()
    each = []
    for at, item in enumerate(items):
        for number, example in enumerate(item):
            ids = torch.tensor(example.ids_T[None].astype(np.int64))
            logprobs = model.hf(ids).logits[0].log_softmax(-1)
            start = experience.border(example)
            places = range(start, ids.shape[1])
            now = sum(logprobs[t - 1, ids[0, t]].item() for t in places)
            old = columns["old_logprobs"][at, number, : len(places)].sum()
            ratio, advantage = (
                np.exp(min(max(now - old, -20), 20)),
                columns["advantages"][at, number],
            )
            each.append(-min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))
    assert found == pytest.approx(np.mean(each), rel=1e-9)


def test_rloo_takes_the_kl_off_the_reward(tiny_model, tmp_path, seen):
    stage = {"kind": "rloo", "rewards": LENGTH, "num_generations": 3, "beta": 0.5}
    train(tiny_model, tmp_path, stage, train={"max_steps": 4}, optim={"learning_rate": 1e-2})
    _, made, _ = seen[-1]
    columns = made.columns
    kl = (columns["old_logprobs"] - columns["reference_logprobs"]).sum(2)
    assert np.abs(kl).max() > 1e-3
    net = columns["reward"] - 0.5 * kl
    others = (net.sum(1, keepdims=True) - net) / 2
    assert columns["advantages"] == pytest.approx(net - others, abs=1e-5)


def test_cut_answers_can_be_left_out(tiny_model, tmp_path, seen):
    stage = {**GRPO, "mask_truncated_completions": True, "max_completion_length": 1}
    run = train(tiny_model, tmp_path, stage, train={"max_steps": 2})
    _, made, answers = seen[-1]
    cut = [not one.finished for one in answers]
    assert any(cut)
    for example, left_out in zip([e for item in made.items for e in item], cut, strict=True):
        assert bool(example.weights_T.any()) is not left_out
    assert all(np.isfinite(line["loss"]) for line in run.metrics() if "loss" in line)


def test_passes_are_cut_without_changing_a_number(tiny_model, tmp_path, seen):
    stage = {**GRPO, "num_iterations": 2, "beta": 0.1}
    plans, lines = [], []
    for limit in (None, 150):
        changes = {"max_steps": 4, "max_forward_tokens": limit}
        run = train(tiny_model, tmp_path, stage, f"limit-{limit}", train=changes)
        plans.append(seen[-1][1].plan)
        lines.append([line for line in run.metrics() if "loss" in line])
    whole, cut = plans
    assert [len(step) for step in whole] == [1]
    assert len(cut[0]) > 1
    assert [place for part in cut[0] for place in part] == whole[0][0]
    for one, other in zip(*lines, strict=True):
        for name in ("loss", "grad_norm", "reward", "kl", "ratio", "reward_std"):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name


def test_a_red_line_stops_groups_too(tiny_model, tmp_path):
    stage = {**GRPO, "num_iterations": 2, "beta": 0.01, "kl_limit": 1e-5, "on_health": "stop"}
    changes = {"train": {"max_steps": 12}, "optim": {"learning_rate": 1e-2}}
    with pytest.raises(RunError) as caught:
        train(tiny_model, tmp_path, stage, **changes)
    assert caught.value.code == "R245"
    assert "KL to the reference" in caught.value.what


# ---------------------------------------------------------------- data, evaluation, refusals


def test_evaluation_answers_greedily_and_counts_the_reward(tiny_model, tmp_path):
    stage = {"kind": "grpo", "rewards": [{"path": "length", "argument": "4"}, "exact_match"]}
    run = train(
        tiny_model, tmp_path, stage, data={"eval": {"count": 4}}, train={"max_steps": 2},
        eval={"steps": 2},
    )  # fmt: skip
    lines = [line for line in run.metrics() if "eval_reward" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["eval_loss"] == -line["eval_reward"]
        parts = line["eval_rewards/length"] + line["eval_rewards/exact_match"]
        assert line["eval_reward"] == pytest.approx(parts)
        assert 1 <= line["eval_completion_length"] <= 8


def test_rows_whose_answer_does_not_fit_are_left_out(tiny_model, tmp_path):
    made = recipe_of(tiny_model, tmp_path, GRPO, train={"max_steps": 1}, data={"max_length": 48})
    file = tmp_path / "questions.jsonl"
    rows = [{"prompt": "Say it", "completion": "x" * 400}, {"prompt": "Say", "completion": "yes"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = compose.train(made)
    report = json.loads((run.path / "data_report.json").read_text())["train"]
    assert report["left_out"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_generations", 1), ("epsilon", 1.0), ("epsilon_high", 0), ("beta", -0.1),
     ("num_iterations", 0), ("temperature", -1), ("max_completion_length", 0)],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(field, value, tiny_model, tmp_path):
    with pytest.raises(ConfigError) as caught:
        train(tiny_model, tmp_path, {**GRPO, field: value})
    assert caught.value.code == "C227"


def test_a_head_that_caps_its_logits_trains_at_temperature_1_only(scene):
    model = scene[2]
    model.hf.config.final_logit_softcapping = 30.0
    assert model.head().softcap == 30.0
    with pytest.raises(ConfigError) as caught:
        model.head(0.7)
    assert caught.value.code == "C192"


def test_a_model_that_broke_stops_the_run(tiny_model, tmp_path, seen):
    train(tiny_model, tmp_path, GRPO, train={"max_steps": 1})
    run, _, _ = seen[-1]
    with torch.no_grad():
        run.hf.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(RunError) as caught:
        run.stage.roll_out(run, 0)
    assert caught.value.code == "R243"

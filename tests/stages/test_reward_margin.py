"""A row's margin reaches the loss of its pair, whatever the layout and the source's weight."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from tunesmith.data.collate import collate_items
from tunesmith.data.convert import WRITERS
from tunesmith.data.formats import preference
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig
from tunesmith.stages.base import build
from tunesmith.stages.reward import RewardConfig
from tunesmith.templates.base import load
from tunesmith.types import Parts

PAIR = {"prompt": "hill?", "chosen": "lamp yes", "rejected": "no"}
MARGINS = [0.0, 0.1, 3.0, 1.0]


def parse(row: dict):
    return preference.parse(Row(row, "pairs.jsonl", 1), {}, DataConfig())


@pytest.mark.parametrize(
    ("given", "found"), [(1, 1.0), (0.25, 0.25), ("0.5", 0.5), (None, 0), ("", 0)]
)
def test_the_column_is_read(given, found):
    assert parse({**PAIR, "margin": given}).margin == found
    alpaca = {"instruction": "a", "input": "", "output": ["b", "c"], "margin": given}
    assert parse(alpaca).margin == found


@pytest.mark.parametrize("given", [-1, True, "much", [1], float("inf"), float("nan")])
def test_what_is_no_margin_is_a_bad_row(given):
    with pytest.raises(DataError) as caught:
        parse({**PAIR, "margin": given})
    assert caught.value.code == "D122"
    assert "margin" in caught.value.what


def test_conversion_keeps_it():
    sample = parse({**PAIR, "margin": 0.75})
    assert parse(WRITERS["preference"][1](sample)) == sample


@pytest.fixture
def stage(tiny_model):
    parts = Parts(load("auto", tiny_model), max_length=256, on_overlength="truncate")
    made = build(RewardConfig(margin=0.5), parts)
    return made


@pytest.fixture
def model(tiny_model, stage):
    from transformers import AutoModelForCausalLM

    from tunesmith.models.language_model import LanguageModel

    torch.manual_seed(0)
    made = LanguageModel(AutoModelForCausalLM.from_pretrained(tiny_model).double()).eval()
    stage.equip(made.hf)
    return made


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("layout", [{}, {"share_prompts": True}, {"padded": True}])
def test_the_loss_of_each_pair_asks_for_its_margin(layout, weight, stage, model):
    """−log σ(r_c − r_r − m), m the recipe's and the row's (arXiv:2307.09288, eq. 2), by hand."""
    answers = ["yes", "yes yes", "a lamp", "the hill is far"]
    samples = [
        dataclasses.replace(parse({**PAIR, "chosen": answer}), margin=margin)
        for answer, margin in zip(answers, MARGINS, strict=True)
    ]
    items = [
        tuple(e._replace(weights_T=e.weights_T * np.float32(weight)) for e in found.examples)
        for found in stage.encode(samples)
    ]
    batch = collate_items(items, **layout)
    scores_N = stage.scores(model, batch).tolist()
    wanted = sum(
        math.log1p(math.exp(-(scores_N[2 * i] - scores_N[2 * i + 1] - 0.5 - margin)))
        for i, margin in enumerate(MARGINS)
    )
    found = stage.loss(model, batch).terms["ranking"].sum.item()
    assert found == pytest.approx(weight * wanted, rel=1e-6)


def test_the_golden_number():
    """r_c = 1.2, r_r = 0.7 gives 0.4740769818, from the definition and from our loss."""

    class Fixed:
        def hidden_at(self, batch, position_N):
            return torch.tensor([[1.2], [0.7]], dtype=torch.float64)

    stage = build(RewardConfig(), Parts(None, 8, "error"))
    stage.score = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.ones_(stage.score.weight)
    from tunesmith.types import Example

    side = lambda n: Example(np.arange(n, dtype=np.int32), np.array([0, *[1] * (n - 1)], "f4"))
    loss = stage.loss(Fixed(), collate_items([(side(3), side(4))]))
    # The reference printed it with the rounding of float32.
    assert loss.terms["ranking"].sum.item() == pytest.approx(0.4740769818, abs=3e-9)
    assert float(loss.metrics["rewards/accuracies"].sum) == 1.0


def test_a_run_asks_for_the_margins_of_its_file(tiny_model, tmp_path):
    from tunesmith import compose, recipe

    found = []
    for margin in (0.0, 4.0):
        rows = [{**PAIR, "prompt": word, "margin": margin} for word in ("a", "b", "c", "d")]
        data = tmp_path / f"{margin}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = compose.train(
            recipe.from_dict(
                {
                    "model": {"path": str(tiny_model)},
                    "stage": "reward",
                    "tuner": "full",
                    "data": {"train": str(data), "num_proc": 1},
                    "train": {"max_steps": 1, "per_device_train_batch_size": 4,
                              "dtype": "float32", "save_steps": "no", "logging_steps": 1},
                    "optim": {"learning_rate": 1e-2, "lr_scheduler_type": "constant"},
                    "output": {"dir": str(tmp_path / "runs"), "name": f"m{margin:.0f}"},
                }
            )
        )  # fmt: skip
        found.append(run.metrics()[0]["loss"])
    assert found[1] > found[0] + 2  # −log σ(−4) = 4.02 where scores are still equal

"""The same rows give the same losses as TRL's trainers of ORPO, CPO, SimPO and KTO.

Rows are tokenised by us: what is compared is the arithmetic, update after update.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.parity import test_preference as shared
from tests.parity.test_preference import arguments, encoded, theirs
from tunesmith import registry
from tunesmith.stages.base import build
from tunesmith.templates.base import load
from tunesmith.types import Conversation, Feedback, Message, Parts

pytestmark = pytest.mark.slow
pair_file = shared.pair_file


@pytest.fixture(autouse=True)
def _trl():
    pytest.importorskip("trl", reason="needs the extra `parity`: pip install 'tunesmith[parity]'")


def tokenised(trainer_class):
    """A trainer of pairs that takes our tokens in the place of its own."""

    class Tokenised(trainer_class):
        def tokenize_row(self, feature, model=None):
            row = json.loads(feature["prompt"])
            found = {"prompt_input_ids": row["prompt_ids"],
                     "prompt_attention_mask": [1] * len(row["prompt_ids"])}  # fmt: skip
            for side in ("chosen", "rejected"):
                ids = row["prompt_ids"] + row[f"{side}_ids"]
                labels = [-100] * len(row["prompt_ids"]) + row[f"{side}_ids"]
                found |= {f"{side}_input_ids": ids, f"{side}_labels": labels,
                          f"{side}_attention_mask": [1] * len(ids)}  # fmt: skip
            return found

    return Tokenised


def rows_of(tiny_model) -> list[dict]:
    """Our tokens, carried through TRL's text columns."""
    made = encoded(tiny_model)
    return [{"prompt": json.dumps(row), "chosen": "-", "rejected": "--"} for row in made]


def compare(found: list[dict], wanted: list[dict]) -> None:
    assert len(found) == len(wanted) == shared.STEPS
    assert len({round(line["loss"], 5) for line in wanted}) == shared.STEPS
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in wanted], rel=1e-5)
    for name in ("rewards/chosen", "rewards/rejected"):
        for ours, peer in zip(found, wanted, strict=True):
            assert ours[name] == pytest.approx(peer[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("stage", "peer"),
    [
        (
            {"kind": "cpo", "beta": 0.1, "label_smoothing": 0.1},
            {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0, "label_smoothing": 0.1},
        ),
        (
            {"kind": "cpo", "beta": 0.3, "cpo_alpha": 0.5},
            {"loss_type": "sigmoid", "beta": 0.3, "cpo_alpha": 0.5},
        ),
        (
            {"kind": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.25},
            {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0},
        ),
        (
            {"kind": "simpo", "beta": 2.5, "gamma_beta_ratio": 0.4, "sft_weight": 0.2},
            {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.0, "cpo_alpha": 0.2},
        ),
    ],
    ids=["cpo-smoothed", "cpo", "simpo", "simpo-sft"],
)
def test_cpo_and_simpo(stage, peer, tiny_model, pair_file, tmp_path):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    settings = CPOConfig(**arguments(tmp_path / "peer"), **peer)
    found = shared.ours(tiny_model, pair_file, tmp_path, stage)
    wanted = theirs(tokenised(CPOTrainer), tiny_model, rows_of(tiny_model), args=settings)
    compare(found, wanted)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_orpo(beta, tiny_model, pair_file, tmp_path):
    """TRL trains the prompt's tokens, too; the paper and we the answer alone. So the peer's token
    loss is taken anew, of the chosen answers' labels."""
    from torch.nn.functional import cross_entropy, pad
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class AnswersOnly(tokenised(ORPOTrainer)):
        def concatenated_forward(self, model, batch):
            found = super().concatenated_forward(model, batch)
            logits = found[2]  # of chosen answers, the last position taken off
            labels = batch["chosen_labels"][:, 1:]
            labels = pad(labels, (0, logits.shape[1] - labels.shape[1]), value=-100)
            nll = cross_entropy(logits.flatten(0, 1), labels.flatten())
            return (*found[:4], nll)

    settings = ORPOConfig(**arguments(tmp_path / "peer"), beta=beta)
    found = shared.ours(tiny_model, pair_file, tmp_path, {"kind": "orpo", "beta": beta})
    wanted = theirs(AnswersOnly, tiny_model, rows_of(tiny_model), args=settings)
    compare(found, wanted)


def feedback_rows(tiny_model) -> tuple[list[dict], list[dict]]:
    """Rows as we read them, and the same as TRL's tokens with our mismatched answers."""
    rows, samples = [], []
    for at, pair in enumerate(shared.pairs()):
        good = at % 3 != 1
        answer = pair["chosen"] if good else pair["rejected"]
        rows.append({"prompt": pair["prompt"], "completion": answer, "label": good})
        talk = [Message.of(m["role"], m["content"]) for m in (*pair["prompt"], *answer)]
        samples.append(Feedback(Conversation(tuple(talk)), good))
    parts = Parts(load("auto", tiny_model), max_length=2048, on_overlength="error")
    stage = build(registry.load("stages", "kto").Config(), parts)
    tokens = []
    for sample, made in zip(samples, stage.encode(samples), strict=True):
        own, other = made.examples
        cut = int(np.argmax(own.weights_T != 0))
        tokens.append(
            {
                "prompt_ids": own.ids_T[:cut].tolist(),
                "completion_ids": own.ids_T[cut:].tolist(),
                "KL_completion_ids": other.ids_T[cut:].tolist(),
                "label": sample.desirable,
            }
        )
    return rows, tokens


@pytest.mark.parametrize(
    "config",
    [{"beta": 0.1}, {"beta": 0.5, "desirable_weight": 1.3, "undesirable_weight": 0.7}],
    ids=["plain", "weighted"],
)
def test_kto(config, tiny_model, tmp_path):
    from trl import KTOConfig, KTOTrainer

    rows, tokens = feedback_rows(tiny_model)
    data = tmp_path / "feedback.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = KTOConfig(**arguments(tmp_path / "peer"), max_length=None, **config)
    found = shared.ours(tiny_model, data, tmp_path, {"kind": "kto", **config})
    wanted = theirs(KTOTrainer, tiny_model, tokens, args=settings)
    assert len(found) == len(wanted) == shared.STEPS
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in wanted], rel=1e-5)
    assert max(m["kl"] for m in found) > 1e-4  # the reference point is not always zero
    for ours, peer in zip(found, wanted, strict=True):
        assert ours["kl"] == pytest.approx(peer["kl"], rel=1e-3, abs=1e-5)


def test_reward_with_margins(tiny_model, tmp_path):
    """A column `margin` in both; TRL starts from the head that our seed draws."""
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    margins = [(0.0, 0.5, 1.0, 3.0)[at % 4] for at in range(len(shared.pairs()))]
    rows = [{**row, "margin": m} for row, m in zip(shared.pairs(), margins, strict=True)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {"kind": "reward", "center_rewards_coefficient": 0.05}
    start = shared.run_of(tiny_model, data, tmp_path / "start", stage, rate=0.0, steps=1)
    model = AutoModelForSequenceClassification.from_pretrained(start.model_path())
    tokens = [
        {
            "chosen_ids": row["prompt_ids"] + row["chosen_ids"],
            "rejected_ids": row["prompt_ids"] + row["rejected_ids"],
            "margin": margin,
        }
        for row, margin in zip(encoded(tiny_model), margins, strict=True)
    ]
    folder = arguments(tmp_path / "peer")
    settings = RewardConfig(**folder, max_length=None, center_rewards_coefficient=0.05)
    found = shared.ours(tiny_model, data, tmp_path, stage)
    wanted = theirs(RewardTrainer, tiny_model, tokens, model, args=settings)
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in wanted], rel=1e-5)

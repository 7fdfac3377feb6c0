"""Where two trainers differ in float32, float64 tells who rounds: there they are the same.

Each loss sequence is made four times: by us and by TRL, in float64 and in float32, with the same
batches and updates. In float64 the sequences agree to 1e-9; in float32 ours is within 1e-5 of that,
and of TRL's.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.parity import test_preference as preference, test_rollouts as rollouts
from tests.parity.test_preference import BATCH, EPSILON, STEPS, arguments, encoded, pairs
from tunesmith import registry
from tunesmith.data.collate import collate_items
from tunesmith.models.language_model import LanguageModel
from tunesmith.stages.base import build
from tunesmith.stages.pairs_impl import summed
from tunesmith.templates.base import load
from tunesmith.training.loop import total
from tunesmith.types import Conversation, Message, Parts, Preference

pytestmark = pytest.mark.slow
DTYPES = (torch.float64, torch.float32)
EXACT, SINGLE = 1e-9, 1e-5
scene = rollouts.scene


@pytest.fixture(autouse=True)
def _trl():
    pytest.importorskip("trl", reason="needs the extra `parity`: pip install 'tunesmith[parity]'")


@pytest.fixture(autouse=True)
def _everything_in_float64(monkeypatch):
    """Of a float64 model, transformers computes the norms in float32, and TRL the logits: without
    that, DPO's and GRPO's sequences agree to 2e-6 only, which is how the place was found."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from trl.trainer import utils

    norm, chunked = LlamaRMSNorm.forward, utils._ChunkedLogProbFunction

    def forward(self, hidden):
        if hidden.dtype != torch.float64:
            return norm(self, hidden)
        scale = hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon
        return self.weight * hidden * scale.rsqrt()

    class Logits:
        @staticmethod
        def apply(hidden_ND, weight_VD, bias, labels_N, temperature, *rest):
            if hidden_ND.dtype != torch.float64:
                return chunked.apply(hidden_ND, weight_VD, bias, labels_N, temperature, *rest)
            assert bias is None
            logits_NV = hidden_ND @ weight_VD.T / temperature
            logprobs_NV = logits_NV.log_softmax(-1)
            return (
                logprobs_NV.gather(1, labels_N[:, None])[:, 0],
                -(logprobs_NV.exp() * logprobs_NV).sum(-1),
                (2 * logprobs_NV).logsumexp(-1),
                logits_NV.mean(-1),
                logits_NV.argmax(-1) == labels_N,
            )

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Logits)


def model_in(tiny_model, dtype):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)


def sequence(loss_of, parameters, steps: int) -> list[float]:
    """Losses of updates by AdamW with clipped gradients, as the trainers make them."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, eps=EPSILON, weight_decay=0.0)
    found = []
    for step in range(steps):
        loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def judge(ours: dict, theirs: dict, truth, apart) -> None:
    """Equal in float64, and in float32 as close to that and to each other as rounding allows."""
    exact = apart(theirs[torch.float64], truth)
    own, peer = (apart(found[torch.float32], truth) for found in (ours, theirs))
    between = apart(ours[torch.float32], theirs[torch.float32])
    print(f"float64: {exact:.0e} apart; float32: we err by {own:.1e}, TRL by {peer:.1e}, "
          f"{between:.1e} apart")  # fmt: skip
    assert exact <= EXACT
    assert max(own, between) <= SINGLE


def compare(ours: dict, theirs: dict) -> None:
    """The sequences of both in both types; see the top of the file."""
    truth = np.array(ours[torch.float64])
    assert len({round(loss, 6) for loss in truth}) == len(truth) == STEPS
    apart = lambda a, b: float(np.max(np.abs(np.array(a) - b) / np.abs(truth)))
    judge(ours, theirs, truth, apart)


def stage_of(tiny_model, kind, **config):
    parts = Parts(load("auto", tiny_model), max_length=2048, on_overlength="error")
    return build(registry.load("stages", kind).Config(**config), parts)


def items_of(stage) -> list:
    """The pairs as items of chosen and rejected."""
    say = lambda row, name: tuple(Message.of(m["role"], m["content"]) for m in row[name])
    samples = [
        Preference(Conversation(say(row, "prompt")), say(row, "chosen"), say(row, "rejected"))
        for row in pairs()
    ]
    return [each.examples for each in stage.encode(samples)]


def ours_of_pairs(tiny_model, stage, dtype, head=None) -> list[float]:
    model = LanguageModel(model_in(tiny_model, dtype))
    model.requires_grad_(True)
    items = items_of(stage)
    stage.equip(model.hf)
    if head is not None:
        stage.score.weight.data.copy_(head)
    batches = []
    for step in range(STEPS):
        batch = collate_items(items[step * BATCH :][:BATCH], share_prompts=True)
        with torch.no_grad():
            values_N = summed(model(batch), batch)
        batch.extra["reference"] = values_N.view(BATCH, 2)
        batches.append(batch)
    parameters = [
        *model.parameters(),
        *(p for m in stage.modules().values() for p in m.parameters()),
    ]
    loss_of = lambda step: total(stage.loss(model, batches[step]), batches[step].units)
    return sequence(loss_of, parameters, STEPS)


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo", "robust"])
def test_dpo(loss_type, tiny_model, tmp_path):
    from trl import DPOConfig, DPOTrainer

    smoothing = {"label_smoothing": 0.2} if loss_type == "robust" else {}
    own, peer = {}, {}
    for dtype in DTYPES:
        stage = stage_of(tiny_model, "dpo", loss_type=loss_type, beta=0.1, **smoothing)
        own[dtype] = ours_of_pairs(tiny_model, stage, dtype)
        args = DPOConfig(
            **arguments(tmp_path), max_length=None, loss_type=[loss_type], beta=0.1, **smoothing
        )
        model = model_in(tiny_model, dtype)
        logs = preference.theirs(
            DPOTrainer, tiny_model, encoded(tiny_model), model, args=args,
            ref_model=copy.deepcopy(model),
        )  # fmt: skip
        peer[dtype] = [line["loss"] for line in logs]
    compare(own, peer)


def test_reward(tiny_model, tmp_path):
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    rows = [
        {f"{side}_ids": row["prompt_ids"] + row[f"{side}_ids"] for side in ("chosen", "rejected")}
        for row in encoded(tiny_model)
    ]
    own, peer = {}, {}
    for dtype in DTYPES:
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(
            tiny_model, num_labels=1, dtype=dtype
        )
        head = torch.linspace(-0.2, 0.3, model.score.weight.numel(), dtype=torch.float64)
        model.score.weight.data = head.view(1, -1).to(dtype)
        stage = stage_of(tiny_model, "reward", center_rewards_coefficient=0.1)
        own[dtype] = ours_of_pairs(tiny_model, stage, dtype, head.view(1, -1))
        args = RewardConfig(**arguments(tmp_path), max_length=None, center_rewards_coefficient=0.1)
        logs = preference.theirs(RewardTrainer, tiny_model, rows, model, args=args)
        peer[dtype] = [line["loss"] for line in logs]
    compare(own, peer)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "bnpo"])
def test_grpo(loss_type, tiny_model, scene, tmp_path):
    """Six updates on the answers of one round, of which the ratios leave 1 and are clipped."""
    from trl import GRPOConfig, GRPOTrainer

    items, columns, _ = scene
    same = {"beta": 0.2, "loss_type": loss_type, "epsilon": 0.1, "epsilon_high": 0.15}
    own, peer = {}, {}
    for dtype in DTYPES:
        stage = stage_of(
            tiny_model, "grpo", num_generations=3, num_iterations=2,
            max_completion_length=rollouts.LONGEST, **same,
        )  # fmt: skip
        model = LanguageModel(model_in(tiny_model, dtype))
        model.requires_grad_(True)
        batch = collate_items(items, columns=columns, share_prompts=True)
        loss_of = lambda step, s=stage, m=model, b=batch: total(s.loss(m, b), b.units)
        own[dtype] = sequence(loss_of, model.parameters(), STEPS)
        trainer = rollouts.trainer_of(GRPOTrainer, GRPOConfig, tiny_model, tmp_path, **same)
        trainer.model.to(dtype).train()
        laid = rollouts.padded(items, columns, dtype)
        loss_of = lambda step, t=trainer, b=laid: t._compute_loss(t.model, dict(b))
        peer[dtype] = sequence(loss_of, trainer.model.parameters(), STEPS)
    compare(own, peer)


# ---------------------------------------------------------------- gradients


def compare_gradients(ours: dict, theirs: dict) -> None:
    """Gradients of both in both types, as relative norms of differences."""
    truth = ours[torch.float64]
    apart = lambda a, b: float((a.double() - b.double()).norm() / truth.norm())
    judge(ours, theirs, truth, apart)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("grpo", {"loss_type": name, "beta": beta, "epsilon": 0.2, "epsilon_high": 0.28})
     for name in ("grpo", "dapo", "dr_grpo", "bnpo") for beta in (0.0, 0.2)]
    + [("rloo", {"beta": 0.0, "epsilon": 0.2})],
)  # fmt: skip
def test_gradients_of_rollouts(kind, fields, tiny_model, scene, tmp_path):
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    items, columns, _ = scene
    pair = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}[kind]
    own, peer = {}, {}
    for dtype in DTYPES:
        stage = stage_of(
            tiny_model, kind, num_generations=3, num_iterations=2,
            max_completion_length=rollouts.LONGEST, **fields,
        )  # fmt: skip
        model = LanguageModel(model_in(tiny_model, dtype))
        model.requires_grad_(True)
        batch = collate_items(items, columns=columns, share_prompts=True)
        total(stage.loss(model, batch), batch.units).backward()
        own[dtype] = rollouts.flat(model)
        trainer = rollouts.trainer_of(*pair, tiny_model, tmp_path, **fields)
        trainer.model.to(dtype).train()
        laid = rollouts.padded(items, columns, dtype)
        trainer._compute_loss(trainer.model, laid).backward()
        peer[dtype] = rollouts.flat(trainer.model)
    compare_gradients(own, peer)

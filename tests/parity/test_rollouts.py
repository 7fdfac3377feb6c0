"""The same sampled answers give the same losses and gradients as TRL's trainers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.laws.conftest import groups, sampled, samples
from tunesmith import registry
from tunesmith.data.collate import collate_items
from tunesmith.losses import advantages
from tunesmith.models.language_model import LanguageModel
from tunesmith.stages.base import build
from tunesmith.stages.experience_impl import border
from tunesmith.templates.base import load
from tunesmith.training.loop import total
from tunesmith.types import Conversation, Parts

pytestmark = pytest.mark.slow
LONGEST = 64


@pytest.fixture
def scene(tiny_model):
    parts = Parts(load("auto", tiny_model), 256, "truncate")
    stage = build(registry.load("stages", "grpo").Config(), parts)
    encoded = stage.encode(samples(Conversation))
    items = groups([e.examples[0] for e in encoded], 3)
    return items, sampled(items), parts


def padded(items, columns, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """The batch as TRL lays it out: prompts padded on the left, answers on the right."""
    examples = [e for item in items for e in item]
    cuts = [border(e) for e in examples]
    P, A = max(cuts), max(len(e.ids_T) - cut for e, cut in zip(examples, cuts, strict=True))
    laid = {
        name: torch.zeros(len(examples), size, dtype=torch.long)
        for name, size in (("prompt_ids", P), ("prompt_mask", P), ("completion_ids", A),
                           ("completion_mask", A))
    }  # fmt: skip
    for row, (example, cut) in enumerate(zip(examples, cuts, strict=True)):
        ids = torch.from_numpy(example.ids_T.astype(np.int64))
        laid["prompt_ids"][row, P - cut :] = ids[:cut]
        laid["prompt_mask"][row, P - cut :] = 1
        laid["completion_ids"][row, : len(ids) - cut] = ids[cut:]
        laid["completion_mask"][row, : len(ids) - cut] = 1
    tokens = lambda name: torch.from_numpy(columns[name]).flatten(0, 1)[:, :A].to(dtype)
    old = tokens("old_logprobs")
    return {
        **laid,
        "old_logps": (old * laid["completion_mask"]).sum(1),
        "advantages": torch.from_numpy(columns["advantages"]).flatten().to(dtype),
        "old_per_token_logps": old,
        "ref_per_token_logps": tokens("reference_logprobs"),
        "num_items_in_batch": laid["completion_mask"].sum(),
    }


def trainer_of(cls, config_cls, tiny_model, folder, **settings):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    args = config_cls(
        output_dir=str(folder), per_device_train_batch_size=12, num_generations=3, use_cpu=True,
        bf16=False, report_to="none", max_completion_length=LONGEST, gradient_checkpointing=False,
        **settings,
    )  # fmt: skip
    made = cls(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 12),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    made.current_gradient_accumulation_steps = 1
    return made


def flat(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def ours(tiny_model, kind, scene, **fields) -> tuple[float, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    items, columns, parts = scene
    config = registry.load("stages", kind).Config(
        num_generations=3, max_completion_length=LONGEST, num_iterations=2, **fields
    )
    stage = build(config, parts)
    model = LanguageModel(AutoModelForCausalLM.from_pretrained(tiny_model)).eval()
    model.requires_grad_(True)
    columns = {name: values.astype(np.float32) for name, values in columns.items()}
    batch = collate_items(items, columns=columns, share_prompts=True)
    loss = total(stage.loss(model, batch), batch.units)
    loss.backward()
    return loss.item(), flat(model)


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo", "bnpo"])
@pytest.mark.parametrize(("beta", "weighed"), [(0.0, True), (0.2, True), (0.2, False)])
def test_grpo(kind, beta, weighed, tiny_model, scene, tmp_path):
    pytest.importorskip("trl", reason="needs the extra `parity`: pip install 'tunesmith[parity]'")
    from trl import GRPOConfig, GRPOTrainer

    same = {"beta": beta, "loss_type": kind, "epsilon": 0.2, "epsilon_high": 0.28}
    same["use_bias_correction_kl"] = weighed
    peer = trainer_of(GRPOTrainer, GRPOConfig, tiny_model, tmp_path, **same)
    peer.model.train()
    wanted = peer._compute_loss(peer.model, padded(*scene[:2]))
    wanted.backward()
    found, gradient = ours(tiny_model, "grpo", scene, **same)
    assert found == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)
    theirs = flat(peer.model)
    assert (gradient - theirs).norm() <= 1e-5 * theirs.norm()


def test_rloo(tiny_model, scene, tmp_path):
    pytest.importorskip("trl", reason="needs the extra `parity`: pip install 'tunesmith[parity]'")
    from trl import RLOOConfig, RLOOTrainer

    peer = trainer_of(RLOOTrainer, RLOOConfig, tiny_model, tmp_path, beta=0.0, epsilon=0.2)
    peer.model.train()
    wanted = peer._compute_loss(peer.model, padded(*scene[:2]))
    wanted.backward()
    found, gradient = ours(tiny_model, "rloo", scene, beta=0.0)
    assert found == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)
    theirs = flat(peer.model)
    assert (gradient - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_scaled_as_theirs(scale):
    """The formula of GRPOTrainer._generate_and_score_completions, in torch."""
    rewards_PG = np.random.default_rng(1).normal(size=(5, 4))
    tensor_PG = torch.from_numpy(rewards_PG)
    centred = tensor_PG - tensor_PG.mean(1, keepdim=True)
    std = {"group": tensor_PG.std(1, keepdim=True), "batch": tensor_PG.std()}
    wanted = centred if scale == "none" else centred / (std[scale] + 1e-4)
    assert advantages.group_normalised(rewards_PG, scale) == pytest.approx(wanted.numpy())

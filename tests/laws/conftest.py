"""What every law needs: each registered stage with samples of its own type on a tiny model."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch

from tunesmith import registry
from tunesmith.data.collate import collate_items
from tunesmith.stages.base import build
from tunesmith.stages.distill import DistillStage
from tunesmith.stages.rollout_impl import RolloutStage
from tunesmith.types import (
    Conversation,
    Document,
    Example,
    Feedback,
    Message,
    Parts,
    Preference,
)

STAGES = registry.names("stages")


def samples(kind: type) -> list:
    """Samples of different lengths and shapes; several turns where the type has turns."""
    if kind is Document:
        texts = [
            "The rain.",
            "A much longer line about the sea and the hills.",
            "Ok",
            "One two three",
        ]
        return [Document(text) for text in texts]
    if kind is Conversation:
        talks = [
            [("user", "Hi"), ("assistant", "Hello there!")],
            [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")],
            [
                ("user", "Name a colour"),
                ("assistant", "Blue"),
                ("user", "Another, please"),
                ("assistant", "A dark green like the forest"),
            ],
            [("user", "A longer question, what is the sea?"), ("assistant", "Water.")],
        ]
        return [Conversation(tuple(Message.of(r, t) for r, t in talk)) for talk in talks]
    if kind is Preference:
        return [pair(*texts) for texts in PAIRS]
    if kind is Feedback:
        talks = (pair(*texts) for texts in PAIRS)
        return [
            Feedback(Conversation((*p.prompt.messages, *p.chosen)), at % 2 == 0)
            for at, p in enumerate(talks)
        ]
    raise KeyError(f"no law samples for {kind}: add them here")


PAIRS = (
    ("Hi", "Hello there!", "No."),
    ("2+2?", "4", "Five, I should think"),
    ("Name a colour", "Blue like the sea", "Seven"),
    ("A longer question, what is the sea?", "Water.", "I don't know that, sorry."),
)


def pair(question: str, chosen: str, rejected: str) -> Preference:
    """A preference of one turn."""
    said = (Message.of("user", question), *(Message.of("assistant", t) for t in (chosen, rejected)))
    return Preference(Conversation(said[:1]), said[1:2], said[2:])


@pytest.fixture(params=STAGES)
def stage(request, tiny_model):
    """A registered stage with its default Config."""
    from tunesmith.templates.base import load

    config = registry.load("stages", request.param).Config()
    parts = Parts(load("auto", tiny_model), max_length=256, on_overlength="truncate")
    return build(config, parts)


@pytest.fixture
def items(stage):
    """Encoded rows of the stage, in sample order; examples that must share a step together."""
    encoded = stage.encode(samples(stage.sample[0]))
    assert not [e.problem for e in encoded if e.problem]
    if stage.sample[0] in (Preference, Feedback):
        return [e.examples for e in encoded]
    if isinstance(stage, RolloutStage):
        return groups([e.examples[0] for e in encoded], stage.answers_per_prompt)
    return [(example,) for e in encoded for example in e.examples]


def groups(examples: list[Example], count: int) -> list[tuple[Example, ...]]:
    """Prompts with `count` answers: its own, then what was said to other prompts."""
    answers = [e.ids_T[e.weights_T > 0] for e in examples]
    made = []
    for at, example in enumerate(examples):
        prompt = example.ids_T[example.weights_T == 0]
        said = [answers[(at + number) % len(answers)] for number in range(count)]
        weights = [np.repeat([0, 1], [len(prompt), len(s)]).astype(np.float32) for s in said]
        ids = [np.concatenate([prompt, s]) for s in said]
        made.append(tuple(map(Example, ids, weights)))
    return made


def sampled(items: list) -> dict[str, np.ndarray]:
    """The columns that a round of answers would have, drawn at random."""
    rng = np.random.default_rng(5)
    shape = len(items), len(items[0]), max(len(e.ids_T) for item in items for e in item)
    columns = {"advantages": rng.normal(size=shape[:2])}
    for name in ("old_logprobs", "reference_logprobs"):
        columns[name] = -5.5 + rng.normal(size=shape) * 0.1
    return columns | {name: rng.normal(size=shape) for name in ("old_values", "returns")}


@pytest.fixture
def lay(items, stage):
    """`lay(rows, **layout)`: a batch of these rows, with what `prepare` and `steps` would add."""

    def lay(rows, **layout):
        values_N2 = torch.linspace(-30, -20, 2 * len(items), dtype=torch.float64).view(-1, 2)
        columns = {"reference": values_N2.numpy()}
        columns |= sampled(items) if isinstance(stage, RolloutStage) else {}
        columns = {name: values[list(rows)] for name, values in columns.items()}
        batch = collate_items([items[row] for row in rows], columns=columns, **layout)
        batch.extra["kl"] = torch.tensor(0.25)
        return batch

    return lay


@pytest.fixture(scope="session")
def _pristine(tiny_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def perturbed(hf):
    """A copy with other weights: a teacher that its student has something to learn from."""
    made = copy.deepcopy(hf).requires_grad_(False)
    torch.manual_seed(1)
    for parameter in made.parameters():
        parameter += 0.3 * parameter.std(correction=0) * torch.randn_like(parameter)
    return made


@pytest.fixture
def model_of(_pristine, stage):
    """`model_of(dtype)`: a fresh LanguageModel of the tiny model, the stage equipped for it."""
    from tunesmith.models.language_model import LanguageModel

    def make(dtype: torch.dtype):
        model = LanguageModel(copy.deepcopy(_pristine).to(dtype))
        torch.manual_seed(0)
        stage.equip(model.hf)
        if isinstance(stage, DistillStage):
            stage.teacher = LanguageModel(perturbed(_pristine).to(dtype)).eval()
        return model

    return make


@pytest.fixture(scope="session")
def written_teacher(tiny_model, _pristine, tmp_path_factory):
    """The model with other weights, in a folder of its own."""
    path = tmp_path_factory.mktemp("law") / "teacher"
    shutil.copytree(tiny_model, path)
    perturbed(_pristine).save_pretrained(path)
    return path

"""What every law needs: each registered stage with samples of its own type on a tiny model."""

from __future__ import annotations

import copy

import pytest
import torch

from tunesmith import registry
from tunesmith.stages.base import build
from tunesmith.types import Conversation, Document, Message, Parts

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
    raise KeyError(f"no law samples for {kind}: add them here")


@pytest.fixture(params=STAGES)
def stage(request, tiny_model):
    """A registered stage with its default Config."""
    from tunesmith.templates.base import load

    config = registry.load("stages", request.param).Config()
    parts = Parts(load("auto", tiny_model), max_length=256, on_overlength="truncate")
    return build(config, parts)


@pytest.fixture
def examples(stage):
    """Encoded examples of the stage, in sample order."""
    encoded = stage.encode(samples(stage.sample[0]))
    assert not [e.problem for e in encoded if e.problem]
    return [example for e in encoded for example in e.examples]


@pytest.fixture(scope="session")
def _pristine(tiny_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture
def model_of(_pristine):
    """`model_of(dtype)` makes a fresh LanguageModel of the tiny model."""
    from tunesmith.models.language_model import LanguageModel

    def make(dtype: torch.dtype):
        return LanguageModel(copy.deepcopy(_pristine).to(dtype))

    return make

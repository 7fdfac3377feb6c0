"""Families that the torch engine answers one at a time."""

from __future__ import annotations

from transformers import RecurrentGemmaConfig

from tests.generation.test_torch import _ROPE, _SMALL, build, tokens
from tunesmith.generation.torch import TorchGenerator
from tunesmith.types import Request, Sampling


def test_states_that_modules_keep_do_not_outlive_a_request():
    """RecurrentGemma keeps them itself, and resets them only for prompts of two tokens or more."""
    config = RecurrentGemmaConfig(
        **_SMALL, **_ROPE, lru_width=32, attention_window_size=8, head_dim=8, pad_token_id=0
    )
    config.num_hidden_layers = 3
    model = build(config)
    asked = [Request(f"{n}", ids, Sampling(12)) for n, ids in enumerate([(7,), (5, 6, 8), (9,)])]
    alone = {}
    for request in asked:
        alone |= tokens(TorchGenerator(build(config)).generate([request]))
    generator = TorchGenerator(model)
    for request in [*asked, *reversed(asked)]:
        assert tokens(generator.generate([request]))[request.id] == alone[request.id]
    generator.submit(asked[1])
    generator.step()
    generator.cancel("1")
    assert [event.finish_reason for event in generator.step()] == ["cancelled"]
    assert tokens(generator.generate([asked[0]]))["0"] == alone["0"]

"""The compiled step: what it computes, and why there may be none."""

from __future__ import annotations

import pytest
import torch

from tests.generation.test_torch import FAMILIES, PROMPTS, build, reference, requests, tokens
from tunesmith.generation import base, compiled_impl
from tunesmith.generation.compiled import CompiledGenerator
from tunesmith.generation.lanes_impl import Lanes
from tunesmith.models.decoding import Decoder
from tunesmith.models.graph import StepGraph


def note(model):
    return CompiledGenerator(model).notes[-1]


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral, window"])
def test_the_graph_computes_what_the_step_does(family):
    """Uncompiled, several rows at their own positions: beside transformers, row by row."""
    hf = build(FAMILIES[family])
    decoder = Decoder(hf, pack=True)
    graph = StepGraph(decoder.single, 64)
    lanes = Lanes(256)
    places = [lanes.take(20) for _ in range(3)]
    rows = [[5, 6, 7], [9, 1, 2, 3, 4, 8, 30, 11, 12], [1]]
    lane = places[0].lane
    with torch.no_grad():
        for place, ids in zip(places, rows, strict=True):
            for at, id in enumerate(ids[:-1]):
                decoder.single(id, at, lane, place.row)
        lane.layer(0, torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
        keys = [lane.keys[layer.index] for layer in decoder.layers]
        values = [lane.values[layer.index] for layer in decoder.layers]
        ids_R = torch.tensor([ids[-1] for ids in rows])
        positions_R = torch.tensor([len(ids) - 1 for ids in rows])
        found_RV = graph(ids_R, positions_R, [k[:3] for k in keys], [v[:3] for v in values])
        wanted_RV = torch.stack([hf(torch.tensor([ids])).logits[0, -1] for ids in rows])
    torch.testing.assert_close(found_RV, wanted_RV, atol=2e-4, rtol=2e-4)


def test_it_can_be_exported():
    decoder = Decoder(build(FAMILIES["qwen3"]), pack=True)
    place = Lanes(64).take(9)
    with torch.no_grad():
        first = decoder.single(5, 0, place.lane, 0)
        keys = [place.lane.keys[layer.index] for layer in decoder.layers]
        values = [place.lane.values[layer.index] for layer in decoder.layers]
        words = torch.tensor([6]), torch.tensor([1])
        exported = torch.export.export(StepGraph(decoder.single, 64), (*words, keys, values))
        found = exported.module()(*words, keys, values)
        assert torch.allclose(found, decoder.single(6, 1, place.lane, 0), atol=1e-4)
    assert not torch.allclose(found, first, atol=1e-2)


@pytest.mark.slow
def test_answers_are_those_of_transformers_and_follow_the_weights():
    model = build(FAMILIES["qwen3"])
    generator = base.build("compiled", model, None)
    assert generator.notes[-1].startswith("compiled in ")
    alone = requests([PROMPTS[0]], max_tokens=100)  # through lanes of two capacities
    assert tokens(generator.generate(alone))["0"] == reference(model, PROMPTS[0], 100)
    found = tokens(generator.generate(requests()))
    assert found == {str(i): reference(model, ids) for i, ids in enumerate(PROMPTS)}
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    assert tokens(generator.generate(requests(PROMPTS[:1])))["0"] == reference(model, PROMPTS[0])


def test_what_can_not_be_compiled_is_said_and_answered_anyway(monkeypatch):
    for family, why in (("gpt2", "family's own code"), ("bloom", "no attention interface")):
        model = build(FAMILIES[family])
        generator = CompiledGenerator(model)
        assert generator.notes[-1].startswith("not compiled: ")
        assert why in generator.notes[-1]
        assert tokens(generator.generate(requests(PROMPTS[:1])))["0"] == reference(
            model, PROMPTS[0]
        )
    assert "bfloat16 on cpu" in note(build(FAMILIES["llama"]).bfloat16())
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler")
        patch.setattr(compiled_impl, "compiler_missing", lambda: "there is no C++ compiler")
        assert "no C++ compiler; the torch engine" in note(build(FAMILIES["llama"]))


def test_a_compiler_that_fails_or_errs_is_not_used(monkeypatch):
    def broken(graph, **options):
        raise_ = RuntimeError("out of luck\nand more")

        def call(*words):
            raise raise_

        return call

    monkeypatch.setattr(torch, "compile", broken)
    assert "not compiled: RuntimeError: out of luck; the torch engine" in note(
        build(FAMILIES["llama"])
    )
    monkeypatch.setattr(torch, "compile", lambda graph, **options: lambda *w: graph(*w) * 1.1)
    assert "away from the uncompiled step's" in note(build(FAMILIES["llama"]))

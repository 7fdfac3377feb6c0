"""Greedy decoding of real models gives the tokens written down once, whichever way it goes."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

from tests.generation.test_torch import reference, requests, tokens
from tunesmith.generation import base
from tunesmith.generation.compiled import CompiledGenerator
from tunesmith.generation.torch import TorchGenerator
from tunesmith.models.language_model import LanguageModel
from tunesmith.templates.tokenizer import Tokenizer

pytestmark = pytest.mark.shared
NAMES = ("stories260K", "babyllama105")


@pytest.fixture(params=NAMES)
def real(request, shared_data):
    """(folder, entries of GOLDEN.json with greedy answers)."""
    entries = json.loads((shared_data / "models" / "GOLDEN.json").read_text())[request.param]
    golden = [entry for entry in entries if "output_ids" in entry]
    return shared_data / "models" / request.param / "hf", golden


def asked(golden):
    [length] = {len(entry["output_ids"]) for entry in golden}
    return requests([entry["prompt_ids"] for entry in golden], max_tokens=length)


def wanted(golden):
    return [entry["output_ids"] for entry in golden]


def test_through_transformers(real):
    folder, golden = real
    model = AutoModelForCausalLM.from_pretrained(folder)
    for entry in golden:
        found = reference(model, entry["prompt_ids"], len(entry["output_ids"]))
        assert found == entry["output_ids"]


@pytest.mark.parametrize("options", [{"max_rows": 1}, {}, {"speculate": 4}], ids=str)
def test_through_the_engine(real, options):
    folder, golden = real
    model = LanguageModel(AutoModelForCausalLM.from_pretrained(folder))
    generator = TorchGenerator(model, Tokenizer.load(folder), **options)
    events = generator.generate(asked(golden))
    assert list(tokens(events).values()) == wanted(golden)
    for entry, found in zip(golden, events.values(), strict=True):
        assert entry["text"].endswith(base.text(found))
        assert found[-1].finish_reason == "length"


def test_through_the_engine_sixteen_at_once(real):
    folder, golden = real
    generator = TorchGenerator(AutoModelForCausalLM.from_pretrained(folder), max_rows=16)
    many = [golden[at % len(golden)] for at in range(16)]
    assert list(tokens(generator.generate(asked(many))).values()) == wanted(many)


@pytest.mark.slow
@pytest.mark.parametrize("real", NAMES, indirect=True)
def test_through_the_compiled_step(real):
    folder, golden = real
    generator = CompiledGenerator(AutoModelForCausalLM.from_pretrained(folder), max_rows=1)
    assert generator.notes[-1].startswith("compiled in ")
    calls = []
    step = generator._engine.forward.alone.step
    generator._engine.forward.alone.step = lambda *words: calls.append(1) or step(*words)
    found = tokens(generator.generate(asked(golden)))
    assert list(found.values()) == wanted(golden)
    assert len(calls) > 50 * len(golden)

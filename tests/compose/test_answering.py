"""Forms of answers as masks over tokens: what is drawn within them is a call, or of the form."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith import compose, platform
from tunesmith.compose import answering, source
from tunesmith.compose.answering import CallShape, Forms, Wanted
from tunesmith.errors import ConfigError
from tunesmith.templates.tokenizer import Tokenizer

WEATHER = {
    "name": "weather",
    "parameters": {
        "properties": {"city": {"enum": ["Ulm", "Bonn"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CHATML = CallShape(
    "<tool_call>\n", None, "arguments", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"
)
BARE = CallShape(arguments="parameters")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(source.builtin("builtin:tiny"))


@pytest.fixture(scope="module")
def forms(tokenizer):
    return Forms(tokenizer, [tokenizer.eos_id])


def written(rule, tokenizer, seed, ids=(), most=400):
    """An answer drawn within a rule, from its beginning `ids` on; None if it found no end."""
    draws, ids = random.Random(seed), list(ids)
    while len(ids) < most:
        mask = rule.mask(ids)
        assert mask is not None
        allowed = mask.tolist()
        assert allowed, tokenizer.decode(ids)
        ends = tokenizer.eos_id in allowed
        token = tokenizer.eos_id if ends and draws.random() < 0.5 else draws.choice(allowed)
        if token == tokenizer.eos_id:
            return tokenizer.decode(ids)
        ids.append(token)
    return None


def objects(text):
    """The JSON objects of calls."""
    found, at = [], 0
    while (at := text.find("{", at)) >= 0:
        value, at = json.JSONDecoder().raw_decode(text, at)
        found.append(value)
    return found


def test_a_forced_call_is_written_as_the_template_writes_it(forms, tokenizer):
    for several in (False, True):
        rule = forms.calls(CHATML, Wanted((WEATHER,), several, forced=True))
        texts = [written(rule(), tokenizer, seed) for seed in range(40)]
        counts = {len(objects(text)) for text in texts if text}
        assert counts == {1} if not several else len(counts) > 1
        for text in filter(None, texts):
            assert text.strip().startswith("<tool_call>\n")
            assert text.endswith("\n</tool_call>")
            assert all(call["name"] == "weather" for call in objects(text))
            assert all(call["arguments"]["city"] in ("Ulm", "Bonn") for call in objects(text))


def test_a_call_or_an_answer_of_the_form(forms, tokenizer):
    rule = forms.calls(BARE, Wanted((WEATHER,), form=({"enum": ["yes", "no"]},)))
    texts = {written(rule(), tokenizer, seed) or "" for seed in range(60)}
    found = [json.loads(text) for text in texts if text]
    assert {"yes", "no"} & {value for value in found if isinstance(value, str)}
    assert any(isinstance(value, dict) and value["name"] == "weather" for value in found)


def test_text_is_free_until_a_call_begins(forms, tokenizer):
    make = forms.calls(CHATML, Wanted((WEATHER,), several=False))
    rule = make()
    said = tokenizer.encode_text("I look.")
    assert all(rule.mask(said[:n]) is None for n in range(len(said) + 1))
    begun = tokenizer.encode_text("I look. <tool_call>")
    for seed in range(8):
        text = written(make(), tokenizer, seed, begun)
        assert text is None or len(objects(text)) == 1
    # a guess that was wrong leaves nothing behind: the same rule, another answer
    assert rule.mask(begun) is not None
    assert rule.mask([*begun[:-1], *said, *said]) is None


def test_no_token_leads_past_the_beginning_of_a_call(forms, tokenizer):
    """Tokens like `>{` would begin a call in a way that the form can't go on from."""
    rule = forms.calls(CHATML, Wanted((WEATHER,), several=False))()
    almost = tokenizer.encode_text("<tool_call")
    mask = rule.mask(almost)
    spelled, _ = forms.spelled()
    beyond = [
        id for id, text in enumerate(spelled) if text and text[:1] == b">" and text[1:].strip()
    ]
    ends = tokenizer.encode_text(">")[-1]
    allowed = set(mask.tolist())
    assert ends in allowed
    assert tokenizer.eos_id in allowed
    assert not allowed & set(beyond)
    assert len(allowed) == len(spelled) - len(beyond)


def test_a_bare_object_is_a_call_only_where_the_answer_begins(forms, tokenizer):
    make = forms.calls(BARE, Wanted(({**WEATHER, "strict": True},)))
    first = set(make().mask([]).tolist())
    assert tokenizer.encode_text("Hello")[0] in first
    brace = tokenizer.encode_text("{")
    text = next(filter(None, (written(make(), tokenizer, seed, brace) for seed in range(9))))
    assert json.loads(text)["name"] == "weather"
    assert make().mask(tokenizer.encode_text("So: {")) is None


def test_a_marker_that_is_a_control_token_comes_first(forms, tokenizer):
    shape = CallShape("[", tokenizer.eos_id + 1, "arguments", ", ", "]")
    rule = forms.calls(shape, Wanted((WEATHER,), forced=True))()
    assert rule.mask([]).tolist() == [tokenizer.eos_id + 1]
    text = next(filter(None, (written(rule, tokenizer, seed, [shape.marker]) for seed in range(9))))
    assert "weather" in text
    both = forms.calls(shape, Wanted((WEATHER,), form=({"const": "no"},)))()
    assert shape.marker in both.mask([]).tolist()
    assert len(both.mask([]).tolist()) > 1
    free = forms.calls(shape, Wanted(({**WEATHER, "strict": True},)))()
    assert free.mask([]) is None
    assert free.mask([70, shape.marker]) is not None


def test_a_form_is_made_once_and_shared(forms):
    schema = {"properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
    one, two = forms.json(schema)(), forms.json(json.loads(json.dumps(schema)))()
    assert one is not two
    assert one.form is two.form
    assert one.mask([]) is two.mask([])
    turned = {"properties": dict(reversed(schema["properties"].items()))}
    assert forms.json(turned)().form is not one.form, "properties are written in their order"


def test_forms_are_forgotten_before_they_fill_the_memory(tokenizer, monkeypatch):
    some = Forms(tokenizer, [tokenizer.eos_id])
    monkeypatch.setattr(answering, "KEPT_BYTES", 1)
    first = some.json({"type": "string"})().form
    assert some.json({"type": "string"})().form is first
    assert first.bytes > 0
    some.json({"type": "integer"})
    assert some.json({"type": "string"})().form is not first
    monkeypatch.setattr(answering, "MASK_BYTES", 1)
    last = some.json({"type": "string"})().form
    assert some.json({"type": "string"})().form is not last, (
        "a form that grew too large is made anew"
    )


def test_requests_that_share_a_form_do_not_disturb_each_other(forms, tokenizer):
    make = forms.json({"enum": ["abab", "cdcd"]})
    alone = [written(make(), tokenizer, seed) for seed in range(6)]
    rules = [make() for _ in range(6)]
    ids: list[list[int]] = [[] for _ in rules]
    draws = [random.Random(seed) for seed in range(6)]
    texts: dict[int, str] = {}
    while len(texts) < 6:  # in turns, as an engine asks
        for at in sorted(set(range(6)) - set(texts)):
            allowed = rules[at].mask(ids[at]).tolist()
            ends = tokenizer.eos_id in allowed
            token = tokenizer.eos_id
            if not (ends and draws[at].random() < 0.5):
                token = draws[at].choice(allowed)
            if token == tokenizer.eos_id:
                texts[at] = tokenizer.decode(ids[at])
            ids[at].append(token)
    assert [texts[at] for at in range(6)] == alone


def test_a_strict_schema_that_is_not_supported_is_refused(forms, tokenizer):
    odd = {"name": "x", "parameters": {"properties": {"a": {"not": {}}}}}
    with pytest.raises(ConfigError, match="G126"):
        forms.calls(BARE, Wanted(({**odd, "strict": True},), forced=True))
    rule = forms.calls(BARE, Wanted((odd,), forced=True))()
    assert rule.mask([]).numel()


def test_without_a_stop_token_nothing_can_be_held(tokenizer):
    with pytest.raises(ConfigError, match="G124"):
        Forms(tokenizer, []).json(None)


@pytest.mark.parametrize(("stored", "wanted"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_weights_in_float32_answer_in_it(tiny_model, tmp_path, monkeypatch, stored, wanted):
    """Whatever is fastest here: rounding them would change what was trained."""
    kept = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, stored))
    shutil.copytree(tiny_model, tmp_path / "model")
    kept.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(platform, "choose_dtype", lambda requested="auto": "bfloat16")
    monkeypatch.setattr(platform, "device", lambda: "cpu")
    loaded = compose.load(str(tmp_path / "model"))
    assert str(loaded.model.hf.dtype) == f"torch.{wanted}"

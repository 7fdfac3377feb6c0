"""vLLM's engine behind the Protocol, against a module of its interface; and its absence."""

from __future__ import annotations

import sys
import types

import pytest

from tunesmith.errors import ConfigError
from tunesmith.generation.vllm import VllmGenerator
from tunesmith.types import Request, Sampling


class Logprob(types.SimpleNamespace):
    pass


class Engine:
    """Says the prompt's ids again, two a step."""

    model_config = types.SimpleNamespace(max_model_len=64, get_vocab_size=lambda: 100)

    def __init__(self):
        self.work, self.asked, self.aborted, self.ends = {}, {}, [], "length"

    def add_request(self, id, prompt, params):
        self.work[id] = list(prompt["prompt_token_ids"])[: params.max_tokens]
        self.asked[id] = params

    def abort_request(self, ids):
        self.aborted += ids
        for id in ids:
            del self.work[id]

    def has_unfinished_requests(self):
        return bool(self.work)

    def step(self):
        found = []
        for id, ids in list(self.work.items()):
            now, self.work[id] = ids[:2], ids[2:]
            told = [{t: Logprob(logprob=-0.5), t + 1: Logprob(logprob=-2.0)} for t in now]
            reason = None if self.work[id] else self.ends
            if reason:
                del self.work[id]
            text = "".join(f"{t} " for t in now)
            output = types.SimpleNamespace(
                token_ids=now, logprobs=told, text=text, finish_reason=reason
            )
            found.append(types.SimpleNamespace(request_id=id, outputs=[output]))
        return found


@pytest.fixture
def engine(monkeypatch):
    made = Engine()
    module = types.ModuleType("vllm")
    module.__version__ = "0"
    module.EngineArgs = lambda **words: words
    module.SamplingParams = lambda **words: types.SimpleNamespace(**words)
    module.sampling_params = types.SimpleNamespace(
        RequestOutputKind=types.SimpleNamespace(DELTA="delta")
    )

    def build(options):
        assert options["trust_remote_code"] is False
        if options["model"] == "broken":
            raise ValueError("no such architecture")
        return made

    module.LLMEngine = types.SimpleNamespace(from_engine_args=build)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


def test_without_vllm_there_is_a_way_to_go_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="G171") as caught:
        VllmGenerator("model")
    assert "vllm serve" in caught.value.fix


def test_a_model_it_can_not_load(engine):
    with pytest.raises(ConfigError, match="no such architecture"):
        VllmGenerator("broken")


def test_events_are_those_of_every_engine(engine):
    made = VllmGenerator("model")
    requests = [
        Request("a", (5, 6, 7), Sampling(max_tokens=3, top_logprobs=2, stop_ids=(9,))),
        Request("b", (8,), Sampling(max_tokens=5)),
    ]
    events = made.generate(requests)
    assert [event.token for event in events["a"]] == [5, 6, 7]
    assert "".join(event.text_delta for event in events["a"]) == "5 6 7 "
    assert [event.finish_reason for event in events["a"]] == [None, None, "length"]
    assert events["a"][0].top == ((5, -0.5), (6, -2.0))
    assert events["b"][0].top == ()
    assert engine.asked["a"].stop_token_ids == [9]
    assert engine.asked["a"].top_k == -1  # all: 0 is refused by older versions


@pytest.mark.parametrize("ends", ["error", "repetition", "something new"])
def test_reasons_that_are_not_ours_end_a_request(engine, ends):
    """Newer versions have more of them; none may leave a request open for ever."""
    engine.ends = ends
    events = VllmGenerator("model").generate([Request("a", (5, 6, 7), Sampling(max_tokens=3))])["a"]
    assert [event.finish_reason for event in events] == [None, None, "error"]


def test_a_request_is_cancelled(engine):
    made = VllmGenerator("model")
    made.submit(Request("a", (5, 6, 7), Sampling(max_tokens=3)))
    made.step()
    made.cancel("a")
    made.cancel("nobody")
    assert [(e.id, e.finish_reason) for e in made.step()] == [("a", "cancelled")]
    assert engine.aborted == ["a"]


@pytest.mark.parametrize(
    ("fields", "match"), [({"constraint": 1}, "constraint"), ({"adapter": "x"}, "adapter")]
)
def test_what_it_is_not_told_is_refused(engine, fields, match):
    with pytest.raises(ConfigError, match=match):
        VllmGenerator("model").submit(Request("a", (5,), **fields))

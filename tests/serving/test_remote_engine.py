"""`RemoteGenerator` asks `tunesmith serve`: both ends of the same API."""

from __future__ import annotations

from tunesmith.generation import base
from tunesmith.generation.remote import RemoteGenerator
from tunesmith.types import Request, Sampling


def test_what_comes_back_is_what_the_engine_says(tiny, tiny_offer):
    ids = tuple(tiny_offer.tokenizer.encode_text("Once upon a time"))
    sampling = Sampling(max_tokens=12, stop_ids=tiny_offer.defaults.stop_ids)
    remote = RemoteGenerator(tiny.url)
    events = remote.generate([Request(f"r{at}", ids, sampling) for at in range(3)])
    body = {"prompt": list(ids), "max_tokens": 12, "temperature": 0}
    expected = tiny.post("/v1/completions", body).json()["choices"][0]["text"]
    assert [base.text(found) for found in events.values()] == [expected] * 3

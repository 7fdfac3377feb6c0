"""Whatever is sent: an answer, or a refusal in OpenAI's shape that names the field. Never a 5xx."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tunesmith.serving import faults, replies
from tunesmith.serving.faults import Refusal

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": "hi"}]
HUGE = 10**18
WORDS = "word " * 300_000
DEEP = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
LONG = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["y" * 40_000]}}}


def error(reply):
    found = reply.json()["error"]
    assert set(found) == {"message", "type", "param", "code", "tunesmith"}
    assert found["message"]
    assert "/h-serve/" not in reply.text
    assert "Traceback" not in reply.text
    return found


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": -1}, "temperature", "S111"),
        ({"temperature": "hot"}, "temperature", "S111"),
        ({"temperature": True}, "temperature", "S111"),
        ({"n": 10**6}, "n", "S111"),
        ({"n": 0}, "n", "S111"),
        ({"max_tokens": HUGE}, "max_tokens", "S123"),
        ({"max_tokens": 0}, "max_tokens", "S111"),
        ({"max_tokens": -5}, "max_tokens", "S111"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "S111"),
        ({"top_logprobs": 3}, "top_logprobs", "S111"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "S111"),
        ({"stop": ["a"] * 5}, "stop", "S111"),
        ({"stop": ""}, "stop", "S111"),
        ({"stop": "x" * 300}, "stop", "S111"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "S111"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "S111"),
        ({"seed": 2**70}, "seed", "S111"),
        ({"best_friend": 1}, "best_friend", "S124"),
        ({"functions": []}, "functions", "S124"),
        ({"store": True}, "store", "S111"),
        ({"store": 0}, "store", "S111"),
        ({"model": "../../etc/passwd"}, "model", "S112"),
        ({"messages": []}, "messages", "S111"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "S111"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "S111"),
        ({"messages": [{**ASK[0], "name": "Bo"}]}, "messages[0].name", "S124"),
        ({"messages": [{**ASK[0], "weight": 1}]}, "messages[0].weight", "S124"),
        ({"messages": [{**ASK[0], "tool_call_id": "x"}]}, "messages[0].tool_call_id", "S111"),
        ({"messages": [{"role": "user", "content": WORDS}]}, "messages", "S123"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "S111"),
        ({"tool_choice": "auto"}, "tool_choice", "S111"),
        ({"response_format": {"type": "grammar"}}, "response_format", "S111"),
        ({"response_format": DEEP}, "response_format", "S124"),
        ({"response_format": LONG}, "response_format", "S111"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
def test_a_chat_that_can_not_be_answered(tiny, fields, param, code):
    begun = time.thread_time()
    reply = tiny.post(CHAT, {"messages": ASK, **fields})
    found = error(reply)
    assert 400 <= reply.status_code < 500
    assert (found["param"], found["tunesmith"]) == (param, code)
    assert time.thread_time() - begun < 5
    assert tiny.http.get("/health").status_code == 200


def test_an_image_is_refused(tiny):
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    reply = tiny.post(CHAT, {"messages": [{"role": "user", "content": [part]}]})
    assert reply.status_code == 400
    assert error(reply)["param"].startswith("messages[0].content")


def test_a_length_error_names_both_numbers(tiny):
    found = error(tiny.post(COMPLETIONS, {"prompt": [5] * 2000}))
    assert found["code"] == "context_length_exceeded"
    assert "1,024" in found["message"]
    assert "2,000" in found["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [[5], []]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 300}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
        ({"prompt": "x", "best_of": True}, "best_of"),
        ({"prompt": "x", "echo": True, "stream": True}, "echo"),
        ({"prompt": "x", "messages": ASK}, "messages"),
        ({}, "prompt"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
def test_a_completion_that_can_not_be_answered(tiny, fields, param):
    reply = tiny.post(COMPLETIONS, fields)
    assert reply.status_code == 400
    assert error(reply)["param"].startswith(param)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b'{"messages": NaN}',
        b'{"temperature": Infinity}',
        b'{"a": ' + b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"messages": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"\\udfff": 1}',
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_bodies_that_are_no_json_object(tiny, raw):
    reply = tiny.http.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert error(reply)["tunesmith"] == "S110"


def test_a_body_that_is_not_declared_as_json(tiny):
    """Pages of strangers can send forms without asking first; JSON they can't."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = tiny.http.post(CHAT, content=b"{}", headers={"content-type": kind})
        assert reply.status_code == 415
        assert error(reply)["tunesmith"] == "S117"


def test_a_body_that_is_too_large(tiny):
    for extra in ({}, {"transfer-encoding": "chunked"}):
        content = iter([b"x" * 2**20] * 3) if extra else b"x" * (3 * 2**20)
        headers = {"content-type": "application/json"}
        reply = tiny.http.post(CHAT, content=content, headers=headers)
        assert reply.status_code == 413
        assert error(reply)["tunesmith"] == "S116"


def test_a_body_that_trickles_in(scripted):
    import socket

    from tunesmith.serving.service import Limits

    limits = Limits(body_seconds=0.3)
    with scripted(lambda request: [70], settings={"limits": limits}) as (served, _):
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n{")
            answer = b"".join(iter(lambda: raw.recv(65536), b"")).decode()  # to its end
    assert answer.startswith("HTTP/1.1 408")
    assert "S125" in answer


def test_routes_and_methods_that_are_not_there(tiny):
    missing = tiny.http.get("/v1/nothing")
    assert missing.status_code == 404
    assert error(missing)["code"] == "unknown_url"
    wrong = tiny.http.get(CHAT)
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert error(wrong)["tunesmith"] == "S113"


def test_scores_of_a_language_model(tiny):
    reply = tiny.post("/v1/score", {"messages": [*ASK, {"role": "assistant", "content": "x"}]})
    assert error(reply)["tunesmith"] == "S121"


def test_every_code_has_a_status_and_a_body():
    for code, (status, kind, name) in faults.KINDS.items():
        found = Refusal(code, "what", "field").body()["error"]
        assert 400 <= status < 600
        assert (found["type"], found["code"], found["tunesmith"]) == (kind, name, code)


def test_errors_of_the_engine_name_the_field():
    from tunesmith.errors import ConfigError

    wrong = ConfigError("C210", "temperature is -1", where="sampling", fix="temperature: 0 …")
    assert faults.of_error(wrong, "messages").param == "temperature"
    refused = ConfigError("C210", "the torch engine can't honour `constraint` of a request")
    assert faults.of_error(refused, "messages").param == "response_format"
    full = ConfigError("G121", "the prompt is longer than the cache")
    assert (faults.of_error(full, "prompt").code, faults.of_error(full, "prompt").param) == (
        "S123",
        "prompt",
    )
    assert faults.of_error(ConfigError("G999", "can't"), "prompt").status == 400


# ---------------------------------------------------------------- fuzz

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
EDGES = st.sampled_from([0, 1, -1, 2**31, -(2**63), 2**64, 0.0, 1e308, "", "x", [], {}, None, True])
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "", 1])},
    optional={"content": JSON | st.text(max_size=20), "tool_calls": JSON, "name": JSON},
)
NAMES = """model temperature top_p top_k min_p n stop stream seed logprobs top_logprobs logit_bias
    response_format tools tool_choice stream_options echo suffix typical_p unknown"""
FIELDS = dict.fromkeys(NAMES.split(), JSON | EDGES)
BODIES = {
    CHAT: ({"messages": st.lists(MESSAGE, max_size=3) | JSON}, {"max_tokens": st.integers(-1, 3)}),
    COMPLETIONS: ({"prompt": st.text(max_size=9) | JSON | st.lists(st.integers(), max_size=4)}, {}),
    "/v1/embeddings": ({"input": JSON | st.text()}, {}),
    "/v1/score": ({"input": JSON}, {}),
    "/tokenize": ({}, {"prompt": JSON | st.text(), "messages": st.lists(MESSAGE, max_size=3)}),
    "/detokenize": ({"tokens": JSON | st.lists(st.integers(-1, 9000), max_size=4)}, {}),
    "/api/chat": ({"context": JSON | st.text()}, {"history": JSON, "max_length": st.just(2)}),
}


@pytest.mark.parametrize("path", BODIES)
def test_no_body_brings_a_5xx(tiny, path):
    needed, optional = BODIES[path]

    @given(st.fixed_dictionaries(needed, optional={**optional, **FIELDS}))
    @settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
    def send(body):
        if path in (CHAT, COMPLETIONS):
            body.setdefault("max_tokens", 2)
        reply = tiny.post(path, body)
        assert reply.status_code < 500, (body, reply.text)

    send()
    assert tiny.http.get("/health").json() == {"status": "ok"}


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_refused(raw):
    with contextlib.suppress(Refusal):
        assert isinstance(replies.parse(raw), dict)

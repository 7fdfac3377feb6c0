"""What a client is told about a body: the field, what it is, what it must be."""

from __future__ import annotations

import pytest

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
ASK = [{"role": "user", "content": "hi"}]
BODIES = [
    (COMPLETIONS, {"prompt": []}, "prompt", "`prompt` is empty"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt[0]", "`prompt[0]` is empty"),
    (COMPLETIONS, {"prompt": 5}, "prompt", "`prompt` is 5; it must be text or a list"),
    (COMPLETIONS, {"prompt": None}, "prompt", "`prompt` is null; it must be text or a list"),
    (COMPLETIONS, {"prompt": ["a", 1]}, "prompt[1]", "`prompt[1]` is 1; it must be text"),
    (COMPLETIONS, {}, "prompt", "`prompt` is missing"),
    (COMPLETIONS, {"prompt": "a", "stop": list("abcde")}, "stop", "5 entries; at most 4"),
    (COMPLETIONS, {"prompt": "a", "stop": [""]}, "stop[0]", "`stop[0]` is empty"),
    (COMPLETIONS, {"prompt": "a", "stop": 5}, "stop", "`stop` is 5; it must be text or a list"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": "5"}, "max_tokens", "must be a whole number"),
    (COMPLETIONS, {"prompt": "a", "n": 100}, "n", "`n` is 100; it must be at most 8"),
    (COMPLETIONS, {"prompt": "a", "n": 0}, "n", "`n` is 0; it must be at least 1"),
    (CHAT, {"messages": "hi"}, "messages", '`messages` is "hi"; it must be a list'),
    (CHAT, {"messages": [5]}, "messages[0]", "`messages[0]` is 5; it must be an object"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'assistant'"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": 5}]},
        "messages[0].content",
        "`messages[0].content` is 5; it must be text or a list",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "is \"image_url\"; it must be 'text'",
    ),
    (
        CHAT,
        {"messages": ASK, "response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "is missing",
    ),
    (
        CHAT,
        {"messages": ASK, "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
        "is missing",
    ),
    (CHAT, {"messages": ASK, "response_format": {"type": "xml"}}, "response_format", '"xml"'),
    (CHAT, {"messages": ASK, "logit_bias": {"x": 1}}, "logit_bias", 'has the key "x"'),
]


@pytest.mark.parametrize(("path", "body", "param", "said"), BODIES, ids=str)
def test_a_wrong_value_is_named_in_words(path, body, param, said, tiny):
    reply = tiny.post(path, body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["tunesmith"]) == (400, param, "S111")
    assert said in error["message"]
    assert "Input should be" not in error["message"]


def test_an_unknown_field_is_named_wherever_it_stands(tiny):
    reply = tiny.post(CHAT, {"messages": [{"role": "user", "content": "hi", "mood": 3}]})
    error = reply.json()["error"]
    assert (error["param"], error["tunesmith"]) == ("messages[0].mood", "S124")


def test_numbers_that_are_too_long_are_refused(tiny):
    raw = b'{"prompt":"a","max_tokens":' + b"9" * 5000 + b"}"
    reply = tiny.http.post(COMPLETIONS, content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert "5,000 digits" in reply.json()["error"]["message"]


@pytest.mark.shared
def test_offsets_are_places_in_the_text(shared_data):
    """`<s>` takes no room, and the first word has no space before it."""
    from tests.serving.conftest import running
    from tunesmith.compose import serving

    folder = str(shared_data / "models" / "stories260K" / "hf")
    ask = {"prompt": "Lily é had", "max_tokens": 5, "logprobs": 1, "temperature": 0}
    with running(serving.offers(folder, "story", {}, slots=2)) as served:
        whole = served.post(COMPLETIONS, {**ask, "echo": True}).json()["choices"][0]
        told = served.post(COMPLETIONS, ask).json()["choices"][0]
        lines = served.post(COMPLETIONS, {**ask, "stream": True}).text.splitlines()
    found = whole["logprobs"]
    assert found["tokens"][0] == "<s>"
    assert found["text_offset"][:2] == [0, 0]
    text = whole["text"]
    assert text.startswith("Lily é had")
    pairs = list(zip(found["tokens"], found["text_offset"], strict=True))[1:]
    for token, place in pairs:
        piece = token.lstrip() if place == 0 else token
        assert token.startswith("bytes:") or text.startswith(piece, place), (token, place)
    prompt = len("Lily é had")
    answer = [place - prompt for _, place in pairs if place >= prompt]
    assert told["logprobs"]["text_offset"] == answer
    import json

    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [at for one in streamed if one for at in one["text_offset"]] == answer

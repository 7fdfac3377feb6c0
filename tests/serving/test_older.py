"""/api/chat of PaddleNLP's flask server, without its traps."""

from __future__ import annotations

import json

import pytest

HISTORY = [{"role": "user", "utterance": "Who?"}, {"role": "bot", "utterance": "I."}]


@pytest.fixture
def served(scripted, tiny_offer):
    ids = [*tiny_offer.tokenizer.encode_text("Nails, and tunes."), tiny_offer.tokenizer.eos_id]
    with scripted(lambda request: ids) as (found, generator):
        found.generator = generator
        yield found


def test_an_answer_in_lines(served):
    body = {"context": "What?", "history": "", "top_k": 0, "top_p": 0.7, "temperature": 0.95}
    body |= {"repetition_penalty": 1.2, "max_length": 50, "src_length": 1024, "min_length": 1}
    reply = served.post("/api/chat", body)
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert {(line["error_code"], line["error_msg"]) for line in lines} == {(0, "Success")}
    said = [line["result"]["response"] for line in lines]
    assert {part["role"] for part in said} == {"bot"}
    assert "".join(part["utterance"] for part in said) == "Nails, and tunes."
    sampling = served.generator.seen[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.95, 0.7, 50)


def prompt(served):
    return served.generator.tokenizer.decode(served.generator.seen[-1].ids)


def test_the_history_is_used_and_the_question_counted_once(served):
    for more in ([], [{"role": "user", "utterance": "What?"}, {"role": "bot", "utterance": ""}]):
        history = json.dumps([*HISTORY, *more])
        served.post("/api/chat", {"context": "What?", "history": history})
        assert prompt(served).count("Who?") == 1
        assert prompt(served).count("What?") == 1
        assert prompt(served).index("Who?") < prompt(served).index("What?")


@pytest.mark.parametrize(
    "fields",
    [
        {"history": "{"},
        {"history": '[{"role": "king", "utterance": "x"}]'},
        {"history": '[{"role": "user"}]'},
        {"history": '[{"role": "user", "utterance": "\\ud800"}]'},
        {"temperature": -1},
        {"src_length": 1},
        {"setting": 1},
        {"context": 1},
    ],
    ids=str,
)
def test_errors_have_a_code_that_is_not_0(served, fields):
    reply = served.post("/api/chat", {"context": "x", **fields})
    assert reply.status_code == 400
    assert reply.json()["error_code"] == 400
    assert reply.json()["error_msg"]
    assert served.generator.seen == []

"""The official client against the real engine: what must work with every OpenAI program."""

from __future__ import annotations

import json
import math

import openai
import pytest

ASK = [{"role": "user", "content": "What does the miller sell?"}]


def chat(tiny, **fields):
    return tiny.openai.chat.completions.create(model="tiny", messages=ASK, **fields)


def text(reply):
    return reply.choices[0].message.content


def test_chat(tiny):
    reply = chat(tiny, max_tokens=20)
    assert reply.object == "chat.completion"
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == "tiny"
    assert text(reply)
    assert reply.choices[0].finish_reason == "stop"
    used = reply.usage
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens


def test_the_answer_is_the_engines_own(tiny, tiny_offer):
    """Over HTTP comes what the engine says for the ids that were trained, greedy by default."""
    from tunesmith.generation import base
    from tunesmith.types import Conversation, Message, Request, Sampling

    ids = tiny_offer.template.prompt_ids(Conversation((Message.of("user", ASK[0]["content"]),)))
    sampling = Sampling(max_tokens=20, stop_ids=tiny_offer.defaults.stop_ids)
    from tunesmith.generation.torch import TorchGenerator

    engine = TorchGenerator(tiny_offer.reader.model, tiny_offer.tokenizer)
    events = engine.generate([Request("x", tuple(ids), sampling)])["x"]
    assert text(chat(tiny, max_tokens=20)) == base.text(events)


def test_the_ids_sent_are_those_trained(tiny, tiny_offer):
    from tunesmith.types import Conversation, Message

    talk = Conversation((Message.of("user", ASK[0]["content"]),))
    sent = tiny.post("/tokenize", {"messages": ASK}).json()
    assert sent["tokens"] == tiny_offer.template.prompt_ids(talk)
    assert sent["count"] == chat(tiny, max_tokens=1).usage.prompt_tokens
    answered = Conversation((*talk.messages, Message.of("assistant", "Flour.")))
    turn = tiny_offer.template.encode_batch(tiny_offer.template.render(answered))[0][0]
    assert sent["tokens"] == turn.prompt_ids


def test_stream_says_the_same(tiny):
    whole = text(chat(tiny, max_tokens=20))
    chunks = list(chat(tiny, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert all(c.id and c.created and c.object == "chat.completion.chunk" for c in chunks)
    assert len({c.id for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == chat(tiny, max_tokens=20).usage.completion_tokens


def test_a_stream_ends_with_done(tiny):
    body = {"messages": ASK, "max_tokens": 3, "stream": True}
    reply = tiny.post("/v1/chat/completions", body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")


def test_max_tokens_ends_with_length(tiny):
    for name in ("max_tokens", "max_completion_tokens"):
        reply = chat(tiny, **{name: 2})
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 2


def test_a_stop_string_is_matched_on_text_and_left_out(tiny):
    whole = text(chat(tiny, max_tokens=20))
    stop = whole[len(whole) // 2 :][:3]
    reply = chat(tiny, max_tokens=20, stop=[stop, "never said"])
    assert text(reply) == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"


def test_several_choices(tiny):
    reply = chat(tiny, n=2, temperature=1.5, seed=1, max_tokens=12)
    said = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert said[0] != said[1]
    alone = chat(tiny, temperature=1.5, seed=1, max_tokens=12)
    assert text(alone) == said[0]
    chunks = list(chat(tiny, n=2, temperature=1.5, seed=1, max_tokens=12, stream=True))
    for at in (0, 1):
        mine = [c.choices[0] for c in chunks if c.choices[0].index == at]
        assert "".join(choice.delta.content or "" for choice in mine) == said[at]
        assert mine[-1].finish_reason == reply.choices[at].finish_reason


def test_a_seed_repeats_and_no_seed_does_not(tiny):
    fields = {"temperature": 1.8, "max_tokens": 16}
    assert text(chat(tiny, seed=3, **fields)) == text(chat(tiny, seed=3, **fields))
    assert len({text(chat(tiny, **fields)) for _ in range(4)}) > 1


def test_temperature_0_is_greedy(tiny):
    greedy = {text(chat(tiny, temperature=0, seed=seed, max_tokens=12)) for seed in range(3)}
    assert greedy == {text(chat(tiny, top_p=0, temperature=1, max_tokens=12))}


def test_logprobs(tiny):
    reply = chat(tiny, max_tokens=8, logprobs=True, top_logprobs=3)
    told = reply.choices[0].logprobs.content
    assert "".join(entry.token for entry in told) == text(reply)
    assert bytes(b for entry in told for b in entry.bytes).decode() == text(reply)
    for entry in told:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token  # greedy
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob, abs=1e-3)
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1.0001


def test_logprobs_of_a_stream_are_those_of_the_whole(tiny):
    whole = chat(tiny, max_tokens=8, logprobs=True).choices[0].logprobs.content
    chunks = chat(tiny, max_tokens=8, logprobs=True, stream=True)
    told = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert [e.token for e in told] == [e.token for e in whole]


def test_models(tiny):
    assert [model.id for model in tiny.openai.models.list()] == ["tiny"]
    assert tiny.openai.models.retrieve("tiny").owned_by == "tunesmith"


def test_an_unknown_model(tiny):
    with pytest.raises(openai.NotFoundError) as caught:
        tiny.openai.chat.completions.create(model="gpt-9", messages=ASK)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "trade": {"enum": ["miller", "smith"]},
        "age": {"type": "integer"},
    },
    "required": ["name", "trade"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_json_schema(tiny, stream):
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    fields = {"response_format": wanted, "temperature": 1.2, "max_tokens": 120}
    for seed in range(4):
        if stream:
            chunks = [c.choices[0] for c in chat(tiny, stream=True, seed=seed, **fields)]
            said = "".join(choice.delta.content or "" for choice in chunks)
            reason = chunks[-1].finish_reason
        else:
            reply = chat(tiny, seed=seed, **fields)
            said, reason = text(reply), reply.choices[0].finish_reason
        if reason == "stop":  # what max_tokens cuts off is no JSON, and says so
            found = json.loads(said)
            assert set(found) <= {"name", "trade", "age"}
            assert found["trade"] in ("miller", "smith")
            break
    else:
        pytest.fail("no answer was finished")


def test_several_choices_each_keep_to_the_schema(tiny):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["ab", "c"]}}}
    reply = chat(tiny, n=4, seed=1, temperature=2, response_format=wanted, max_tokens=20)
    assert {json.loads(choice.message.content) for choice in reply.choices} <= {"ab", "c"}


def test_a_schema_that_can_not_be_kept_is_refused_by_its_keyword(tiny):
    schema = {"type": "object", "patternProperties": {"a": {}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="patternProperties") as caught:
        chat(tiny, response_format=wanted)
    assert caught.value.param == "response_format"


def test_logit_bias(tiny):
    token = tiny.post("/tokenize", {"prompt": " iron"}).json()["tokens"][0]
    reply = chat(tiny, logit_bias={str(token): 100}, max_tokens=3, logprobs=True)
    told = reply.choices[0].logprobs.content
    assert [entry.token for entry in told] == [" iron"] * 3
    assert told[0].logprob < -1  # the model's own, before the bias


def test_a_stop_token(tiny):
    told = chat(tiny, max_tokens=8, logprobs=True).choices[0].logprobs.content
    token = tiny.post("/tokenize", {"prompt": told[2].token}).json()["tokens"]
    assert len(token) == 1
    reply = chat(tiny, max_tokens=8, extra_body={"stop_token_ids": token})
    assert text(reply) == "".join(entry.token for entry in told[:2])
    assert reply.choices[0].finish_reason == "stop"


def test_penalties(tiny):
    token = tiny.post("/tokenize", {"prompt": " iron"}).json()["tokens"][0]
    fields = {"logit_bias": {str(token): 18}, "max_tokens": 24}
    often = text(chat(tiny, **fields)).count("iron")
    assert text(chat(tiny, frequency_penalty=2, **fields)).count("iron") < often


def test_the_likeliest_of_a_stream(tiny):
    chunks = chat(tiny, max_tokens=4, logprobs=True, top_logprobs=2, stream=True)
    told = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert [len(entry.top_logprobs) for entry in told] == [2] * len(told)


# ---------------------------------------------------------------- completions, embeddings


def test_completions_of_text_list_and_ids(tiny):
    create = tiny.openai.completions.create
    one = create(model="tiny", prompt="Once upon a time", max_tokens=6)
    ids = tiny.post("/tokenize", {"prompt": "Once upon a time"}).json()["tokens"]
    by_ids = create(model="tiny", prompt=ids, max_tokens=6)
    several = create(model="tiny", prompt=["Once upon a time", "The sun"], max_tokens=6)
    assert one.object == "text_completion"
    assert one.choices[0].text == by_ids.choices[0].text == several.choices[0].text
    assert len(several.choices) == 2
    assert [choice.index for choice in several.choices] == [0, 1]
    streamed = create(model="tiny", prompt="Once upon a time", max_tokens=6, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == one.choices[0].text


def test_echo_with_logprobs_is_what_lm_eval_asks_for(tiny, tiny_offer):
    """As lm-eval's local-completions does: ids in, log-probabilities of all, one token more."""
    import torch

    ids = tiny.post("/tokenize", {"prompt": "The miller sells flour."}).json()["tokens"]
    body = {"model": "tiny", "prompt": [ids, ids[:3]], "temperature": 0, "max_tokens": 1}
    body |= {"logprobs": 1, "seed": 1234, "echo": True}
    choices = tiny.post("/v1/completions", body).json()["choices"]
    told = choices[0]["logprobs"]
    assert len(told["tokens"]) == len(ids) + 1
    assert told["token_logprobs"][0] is None
    with torch.no_grad():
        logits = tiny_offer.reader.model.hf(torch.tensor([ids])).logits[0].float()
    expected = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert told["token_logprobs"][1:-1] == pytest.approx(expected.tolist(), abs=1e-2)
    for token, value, top in list(
        zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True)
    )[1:]:
        assert top[token] == pytest.approx(value, abs=1e-3)
    assert len(choices[1]["logprobs"]["tokens"]) == 4
    assert choices[0]["text"].startswith("The miller sells flour.")


def test_echo_of_nothing_more(tiny):
    body = {"prompt": "The sun is", "max_tokens": 0, "echo": True, "logprobs": 2}
    reply = tiny.post("/v1/completions", body).json()
    assert reply["choices"][0]["text"] == "The sun is"
    assert reply["usage"]["completion_tokens"] == 0


def test_embeddings(tiny, tiny_offer):
    import torch

    made = tiny.openai.embeddings.create(model="tiny", input=["The sun is hot.", "A"])
    as_floats = tiny.openai.embeddings.create(
        model="tiny", input=["The sun is hot.", "A"], encoding_format="float"
    )
    ids = torch.tensor([tiny_offer.tokenizer.encode_text("The sun is hot.")])
    with torch.no_grad():
        hidden = tiny_offer.reader.model.hf.base_model(ids).last_hidden_state[0].float().mean(0)
    expected = (hidden / hidden.norm()).tolist()
    assert made.data[0].embedding == pytest.approx(expected, abs=1e-2)
    for one, other in zip(made.data, as_floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.fsum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-4)


def test_tokens_and_back(tiny):
    ids = tiny.post("/tokenize", {"prompt": "Ein Müller, 粉."}).json()["tokens"]
    assert tiny.post("/detokenize", {"tokens": ids}).json()["prompt"] == "Ein Müller, 粉."

"""The engine's thread under load: bounds, clients that leave, faults, and no mixing of streams."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx2 as httpx
import pytest

from tests.serving.conftest import wait_for
from tunesmith.serving.engine import Ticket
from tunesmith.serving.faults import Refusal
from tunesmith.types import Event, Request

CHAT = "/v1/chat/completions"


def ask(text="hi", **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def endless(request):
    return [70] * 1000


@pytest.fixture
def say(tiny_offer):
    """Ids that spell a text and end."""
    tokenizer = tiny_offer.tokenizer
    return lambda text: [*tokenizer.encode_text(text), tokenizer.eos_id]


def test_a_full_queue_answers_429_at_once(scripted):
    with scripted(endless, pause=0.02, settings={"queue": 3}) as (served, generator):
        with httpx.Client(base_url=served.url) as other:
            streams = [other.stream("POST", CHAT, json=ask(stream=True)) for _ in range(3)]
            opened = [stream.__enter__() for stream in streams]
            assert [reply.status_code for reply in opened] == [200] * 3
            refused = served.post(CHAT, ask())
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
            assert refused.json()["error"]["tunesmith"] == "S118"
            assert served.http.get("/health").status_code == 200
            for stream in streams:
                stream.__exit__(None, None, None)
        wait_for(lambda: served.service.engine.held == 0)
        assert len(generator.seen) == 3


def test_several_choices_are_taken_all_or_none(scripted, say):
    with scripted(lambda request: say("x"), settings={"queue": 3}) as (served, generator):
        never = served.post(CHAT, ask(n=4))  # trying again would not help
        assert never.status_code == 413
        assert "asks for 4 answers" in never.json()["error"]["message"]
        assert generator.seen == []
        assert served.post(CHAT, ask(n=3)).status_code == 200


def leave(url, stream):
    """Asks, and closes the connection before the answer is there."""
    with httpx.Client(base_url=url, timeout=0.4) as client:
        if not stream:
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=ask())
            return
        with client.stream("POST", CHAT, json=ask(stream=True)) as reply:
            lines = reply.iter_lines()
            for _ in range(5):
                next(lines)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_answer(scripted, stream):
    with scripted(endless, pause=0.01) as (served, generator):
        leave(served.url, stream)
        wait_for(lambda: not generator.running)
        assert len(generator.cancelled) == 1
        assert served.service.engine.held == 0
        steps = generator.steps
        assert served.http.get("/health").status_code == 200
        wait_for(lambda: served.service.metrics.cancelled == 1)
        assert generator.steps <= steps + 2


def test_streams_are_not_mixed(scripted, tiny_offer, say):
    """Each answer repeats its own prompt: 64 at once, each a canary of its own."""

    def canary(request):
        prompt = tiny_offer.tokenizer.decode(request.ids)
        return say(prompt.split("CANARY ")[1].split("<")[0] * 8)

    async def one(client, at):
        body = ask(f"CANARY bird-{at};", stream=True)
        async with client.stream("POST", CHAT, json=body) as reply:
            lines = [line async for line in reply.aiter_lines() if line.startswith("data: {")]
        chunks = [json.loads(line[6:]) for line in lines]
        return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)

    async def all_of_them(url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return await asyncio.gather(*(one(client, at) for at in range(64)))

    with scripted(canary) as (served, _):
        said = asyncio.run(all_of_them(served.url))
    assert said == [f"bird-{at};" * 8 for at in range(64)]


def test_an_engine_that_fails_ends_its_requests_and_goes_on(scripted, say):
    with scripted(lambda request: say("fine"), pause=0.05) as (served, generator):
        generator.broken = RuntimeError("secret path /home/x")
        failed = served.post(CHAT, ask())
        assert failed.status_code == 500
        assert failed.json()["error"]["tunesmith"] == "S122"
        assert "secret" not in failed.text
        assert served.post(CHAT, ask()).json()["choices"][0]["message"]["content"] == "fine"


def test_a_failure_in_a_stream_is_told_in_it(scripted):
    with scripted(endless, pause=0.01) as (served, generator):
        with served.http.stream("POST", CHAT, json=ask(stream=True)) as reply:
            lines = reply.iter_lines()
            next(lines)
            generator.broken = RuntimeError("no")
            told = [line for line in lines if line.startswith("data: ")]
        assert json.loads(told[-1][6:])["error"]["code"] == "engine_failed"
        assert served.service.engine.held == 0


def test_output_that_is_not_finite_is_an_error(tiny_offer, scripted):
    with scripted(endless) as (served, generator):
        generator.step = lambda: [
            Event(id, 5, float("nan"), "", "error") for id in list(generator.running)
        ]
        reply = served.post(CHAT, ask())
    assert reply.status_code == 500
    assert "R230" in reply.json()["error"]["message"]


def test_an_answer_that_takes_too_long(scripted):
    from tunesmith.serving.service import Limits

    limits = Limits(answer_seconds=0.3)
    with scripted(endless, pause=0.02, settings={"limits": limits}) as (served, generator):
        late = served.post(CHAT, ask())
        assert late.status_code == 504
        assert late.json()["error"]["tunesmith"] == "S120"
        assert late.headers["x-should-retry"] == "false"
        wait_for(lambda: not generator.running)


def test_health_does_not_wait_for_the_engine(scripted):
    answer = threading.Event()
    with scripted(lambda request: answer.wait(60) and [70]) as (served, generator):
        thread = threading.Thread(
            target=lambda: httpx.post(served.url + CHAT, json=ask(max_tokens=1), timeout=60)
        )
        thread.start()
        wait_for(lambda: generator.seen)
        assert httpx.get(served.url + "/health", timeout=30).json() == {"status": "ok"}
        assert generator.steps == 0
        answer.set()
        thread.join()


def test_a_slow_client_loses_its_answer_not_the_server():
    async def scene():
        loop = asyncio.get_running_loop()
        ticket = Ticket(Request("a", (1,)), None, loop, asyncio.Event(), buffer=3)
        event = Event("a", 1, 0.0, "x")
        assert ticket.put([event] * 3)
        assert not ticket.put([event])
        assert len(ticket.pop()) == 3
        with pytest.raises(Refusal, match="S126"):
            ticket.pop()

    asyncio.run(scene())


def test_embeddings_run_between_steps(scripted):
    with (
        scripted(endless, pause=0.005) as (served, generator),
        served.http.stream("POST", CHAT, json=ask(stream=True)) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        found = httpx.post(served.url + "/v1/embeddings", json={"input": "x"}, timeout=30)
        assert found.status_code == 200
        assert generator.running
        assert next(line for line in lines if line).startswith("data: ")


def test_metrics_count(scripted, say):
    with scripted(lambda request: say("fine")) as (served, _):
        served.post(CHAT, ask())
        served.http.get("/nowhere/../etc/passwd")
        page = served.http.get("/metrics").text
    assert 'route="/v1/chat/completions",status="200"} 1' in page
    assert 'route="other",status="404"} 1' in page
    assert "passwd" not in page
    count = len(say("fine"))
    assert f"tunesmith_generated_tokens_total {count}\n" in page
    assert "tunesmith_request_seconds_count 1\n" in page

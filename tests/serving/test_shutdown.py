"""SIGTERM in the middle of work: what was accepted is finished or told, and the exit code is 0."""

from __future__ import annotations

import json
import re
import signal
import threading

import httpx2 as httpx
import pytest

from tests.forked import Forked
from tests.serving.conftest import wait_for
from tunesmith.cli.main import main
from tunesmith.serving.service import Limits

CHAT = "/v1/chat/completions"


def ask(text="hi", **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture
def process(tmp_path):
    """Starts `tunesmith serve` with these words; gives the process and its address."""
    started = []

    def start(*words):
        log = tmp_path / "log.txt"
        made = Forked(lambda: main(["serve", *words, "--port", "0"]), log)
        started.append(made)
        wait_for(lambda: "serving http" in log.read_text() or made.poll() is not None, 120)
        found = re.search(r"serving (http\S+?)/v1", log.read_text())
        assert found, log.read_text()
        return made, found[1], log

    yield start
    for made in started:
        made.kill()


def streamed(url, results, **fields):
    """One stream; what it said and how it ended go to the results."""
    ended, chunks = "", []
    try:
        with httpx.stream("POST", url + CHAT, json=ask(stream=True, **fields), timeout=60) as reply:
            if reply.status_code != 200:
                results.append((reply.status_code, [], "refused"))
                return
            for line in reply.iter_lines():
                if line == "data: [DONE]":
                    ended = "done"
                elif line.startswith("data: "):
                    chunks.append(json.loads(line[6:]))  # a torn frame would raise
        ended = "told" if chunks and "error" in chunks[-1] else ended
    except httpx.ConnectError:
        ended = "never accepted"
    results.append((200, chunks, ended))


def test_sigterm_under_load_loses_nothing_that_was_accepted(process):
    made, url, log = process("builtin:tiny", "--slots", "8")
    results: list = []
    fields = {"max_tokens": 60, "temperature": 1.0, "min_p": 0.02}
    threads = [
        threading.Thread(target=streamed, args=(url, results), kwargs=fields) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    page = lambda: httpx.get(url + "/metrics").text
    wait_for(lambda: "tunesmith_requests_in_hand 16" in page() or results)
    made.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(90)
    assert made.wait(60) == 0
    assert [ended for _, _, ended in results] == ["done"] * 16, log.read_text()
    for _, chunks, _ in results:
        assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_after_the_grace_time_clients_are_told(scripted):
    results: list = []
    with scripted(lambda r: [70] * 2000, pause=0.01, settings={"grace": 0.3}) as (served, script):
        thread = threading.Thread(target=streamed, args=(served.url, results))
        thread.start()
        wait_for(lambda: script.steps > 5)
        served.server.stop()
        thread.join(20)
    (_, chunks, ended) = results[0]
    assert ended == "told"
    assert chunks[-1]["error"]["code"] == "shutting_down"
    assert script.cancelled


def test_who_comes_while_it_stops_is_told(scripted):
    with scripted(lambda r: [70] * 40, pause=0.02) as (served, script):
        with httpx.Client(base_url=served.url) as early:
            assert early.get("/health").status_code == 200
            served.service.engine.draining = True
            late = early.post(CHAT, json=ask())
            health = early.get("/health")
        assert late.status_code == 503
        assert late.json()["error"]["tunesmith"] == "S119"
        assert "retry-after" in late.headers
        assert health.json() == {"status": "draining"}
    assert script.seen == []


def test_a_second_signal_does_not_wait(scripted):
    results: list = []
    with scripted(lambda r: [70] * 2000, pause=0.01) as (served, script):
        thread = threading.Thread(target=streamed, args=(served.url, results))
        thread.start()
        wait_for(lambda: script.steps > 5)
        for _ in range(2):
            served.server.signalled(signal.SIGINT, None)
        thread.join(20)
    assert results[0][2] == "told"


def burst(url, count):
    """Many clients at once over bare sockets; how each one ended."""
    import asyncio
    from urllib.parse import urlsplit

    host, port = urlsplit(url).hostname, urlsplit(url).port
    body = json.dumps(ask(stream=True, max_tokens=12, temperature=1.0)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"

    async def one():
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            return "refused"  # it was over before this client came
        try:
            writer.write(head.encode() + body)
            got = b""
            while b"[DONE]" not in got and (more := await reader.read(65536)):
                got += more
        except ConnectionResetError:
            return "reset"
        finally:
            writer.close()
        status = got.split(b"\r\n", 1)[0]
        if b"[DONE]" in got:
            return "done"
        if b" 503 " in status or b" 429 " in status:
            told = b"retry-after:" in got.lower() and b'"error"' in got
            closed = b" 429 " in status or b"connection: close" in got.lower()
            return "told" if told and closed else got.decode()
        return "told" if b'data: {"error"' in got else f"cut: {got[-200:]!r}"

    async def all_of_them():
        return await asyncio.gather(*(one() for _ in range(count)))

    return asyncio.run(all_of_them())


def test_sigterm_in_a_burst_leaves_nobody_without_a_word(process):
    """Connections whose requests were not read yet, or that still wait at the door, are told."""
    made, url, log = process("builtin:tiny", "--slots", "8", "--queue", "150")
    ends: list[str] = []
    thread = threading.Thread(target=lambda: ends.extend(burst(url, 200)))
    thread.start()
    wait_for(lambda: " 200 " in log.read_text() or " 429 " in log.read_text(), 60)
    made.send_signal(signal.SIGTERM)
    thread.join(120)
    assert made.wait(60) == 0
    assert set(ends) <= {"done", "told", "refused"}, [end for end in ends if len(end) > 8][:3]
    assert len(ends) == 200
    assert ends.count("done") >= 8


def test_clients_that_come_while_it_finishes_are_told(scripted):
    """The door stays open until the last answer is there."""
    results: list = []
    with scripted(lambda r: [70] * 60, pause=0.02) as (served, script):
        thread = threading.Thread(target=streamed, args=(served.url, results))
        thread.start()
        wait_for(lambda: script.steps > 5)
        served.server.stop()
        late = httpx.post(served.url + CHAT, json=ask())
        thread.join(20)
    assert late.status_code == 503
    assert late.headers["connection"] == "close"
    assert int(late.headers["retry-after"]) >= 1
    assert results[0][2] == "done"


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
def test_a_stream_that_was_broken_off_is_no_200_in_log_and_metrics(path, scripted, caplog):
    caplog.set_level("INFO", "tunesmith.serving")
    short = {"limits": Limits(answer_seconds=0.1)}
    body = ask(stream=True) if path == CHAT else {"context": "hi", "max_length": 400}
    with scripted(lambda r: [70] * 2000, pause=0.01, settings=short) as (served, _):
        reply = httpx.post(served.url + path, json=body)
        assert reply.status_code == 200  # what was sent before anything went wrong
        page = served.http.get("/metrics").text
    assert f'{{route="{path}",status="504"}} 1' in page
    assert f'{{route="{path}",status="200"}}' not in page
    assert f"POST {path} 504" in caplog.text
    assert "broken off: it took too long" in caplog.text


def test_a_client_that_leaves_a_stream_is_no_200(scripted):
    with scripted(lambda r: [70] * 2000, pause=0.01) as (served, _):
        with httpx.stream("POST", served.url + CHAT, json=ask(stream=True)) as reply:
            next(reply.iter_lines())
        page = lambda: served.http.get("/metrics").text
        wait_for(lambda: f'{{route="{CHAT}",status="499"}} 1' in page())


def test_a_bug_in_a_stream_is_told_and_counted(scripted, monkeypatch):
    from tunesmith.serving import answers

    def broken(answer):
        raise RuntimeError("secret insides")

    monkeypatch.setattr(answers.Answer, "ending", broken)
    with scripted(lambda r: [70] * 3) as (served, _):
        reply = served.post(CHAT, ask(stream=True, max_tokens=3))
        told = f'{{route="{CHAT}",status="500"}} 1'
        wait_for(lambda: told in served.http.get("/metrics").text)  # counted after the last byte
    last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["error"]["tunesmith"] == "S122"
    assert "secret" not in reply.text

"""SIGTERM in the middle of work: what was accepted is finished or told, and the exit code is 0."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import httpx2 as httpx
import pytest

from tests.serving.conftest import wait_for

CHAT = "/v1/chat/completions"


def ask(text="hi", **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture
def process(tmp_path):
    """Starts `tunesmith serve` with these words; gives the process and its address."""
    started = []

    def start(*words):
        log = tmp_path / "log.txt"
        with log.open("w") as file:
            made = subprocess.Popen(
                [sys.executable, "-m", "tunesmith.cli.main", "serve", *words, "--port", "0"],
                stderr=file,
                stdout=subprocess.PIPE,
                env={**os.environ, "TUNESMITH_HOME": str(tmp_path)},
            )
        started.append(made)
        wait_for(lambda: "serving http" in log.read_text() or made.poll() is not None, 120)
        found = re.search(r"serving (http\S+?)/v1", log.read_text())
        assert found, log.read_text()
        return made, found[1], log

    yield start
    for made in started:
        made.kill()
        made.wait()


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

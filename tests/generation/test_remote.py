"""The remote engine against a small server that misbehaves as asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tunesmith.errors import ConfigError
from tunesmith.generation import base, remote
from tunesmith.generation.remote import RemoteGenerator
from tunesmith.types import Request, Sampling


class Server(ThreadingHTTPServer):
    """Says the prompt's ids, one a chunk; first fails `busy` times, breaks off after `breaks`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.busy, self.breaks, self.bodies, self.slow = 0, None, [], threading.Event()
        self.refuses = ""
        self.owner, self.ends = "", "length"
        self.slow.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        owner = {"owned_by": self.server.owner} if self.server.owner else {}
        self.reply(200, json.dumps({"data": [{"id": "small", **owner}, {"id": "other"}]}))

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        if self.server.refuses:
            self.reply(400, self.server.refuses)
            return
        if self.server.busy:
            self.server.busy -= 1
            self.reply(503, "")
            return
        self.send_response(200)
        self.end_headers()
        ids = body["prompt"][: body["max_tokens"]]
        for at, id in enumerate(ids):
            if at == self.server.breaks:
                return
            reason = self.server.ends if at == len(ids) - 1 else None
            logprobs = {"token_logprobs": [-0.5]}
            choice = {"text": f"{id} ", "logprobs": logprobs, "finish_reason": reason}
            if body.get("return_token_ids"):
                choice["token_ids"] = [id]
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            self.wfile.flush()
            if at == 1:
                self.server.slow.wait(20)
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_requests_are_answered_at_once(server):
    generator = RemoteGenerator(server.url + "/v1")
    asked = [Request(str(i), (i, 5, 6), Sampling(max_tokens=2, seed=i)) for i in range(20)]
    found = generator.generate(asked)
    assert list(found) == [request.id for request in asked]
    for i, events in enumerate(found.values()):
        assert base.text(events) == f"{i} 5 "
        assert [event.logprob for event in events] == [-0.5, -0.5]
        assert events[-1].finish_reason == "length"
    assert generator.notes == [f"remote: {server.url}, small"]


def test_a_busy_server_is_asked_again(server):
    server.busy = 2
    generator = RemoteGenerator(server.url)
    assert base.text(generator.generate([Request("a", (7, 8))])["a"]) == "7 8 "
    assert len(server.bodies) == 3
    server.busy = 100
    events = generator.generate([Request("a", (7, 8))])["a"]
    assert [event.finish_reason for event in events] == ["error"]


def test_a_refusal_is_told_and_not_asked_again(server, caplog):
    server.refuses = '{"error": "the prompt is too long"}'
    events = RemoteGenerator(server.url).generate([Request("a", (7, 8))])["a"]
    assert [event.finish_reason for event in events] == ["error"]
    assert len(server.bodies) == 1
    assert "refused a request: 400" in caplog.text
    assert "the prompt is too long" in caplog.text


def test_unicodes_own_line_ends_break_no_line():
    text = 'data: {"text": "a\u2028b\u0085c"}\r\n\ndata: [DONE]\n'.encode()
    for size in (1, 7, 1000):
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        found = [line for line in remote._lines(parts) if line]
        assert found == ['data: {"text": "a\u2028b\u0085c"}', "data: [DONE]"]


def test_an_answer_that_breaks_off_is_no_answer(server):
    """What was said can't be unsaid: it ends in an error and is not asked again."""
    server.breaks = 2
    events = RemoteGenerator(server.url).generate([Request("a", (7, 8, 9, 10))])["a"]
    assert [event.finish_reason for event in events] == [None, None, "error"]
    assert len(server.bodies) == 1


def test_cancelling_while_the_server_is_slow(server):
    server.slow.clear()
    generator = RemoteGenerator(server.url)
    events = []
    generator.submit(Request("a", tuple(range(10))))
    with pytest.raises(ConfigError, match="C210"):
        generator.submit(Request("a", (1,)))
    while len(events) < 2:
        events += generator.step()
    generator.cancel("a")
    generator.cancel("unknown")
    server.slow.set()
    while events[-1].finish_reason is None:
        events += generator.step()
    assert events[-1].finish_reason == "cancelled"
    assert generator.step() == []


def test_what_is_sent():
    sampling = Sampling(
        5, 0.7, top_k=3, min_p=0.1, repetition_penalty=1.2, presence_penalty=0.5, seed=9,
        stop=("x",), stop_ids=(2,), logit_bias=((4, -1.0),), top_logprobs=3,
    )  # fmt: skip
    body = remote.body_of(Request("a", (1, 2), sampling, adapter="other"), "small")
    assert body == {
        "model": "other", "prompt": [1, 2], "stream": True, "max_tokens": 5, "temperature": 0.7,
        "top_p": 1.0, "seed": 9, "logprobs": 3, "presence_penalty": 0.5, "top_k": 3, "min_p": 0.1,
        "repetition_penalty": 1.2, "stop": ["x"], "stop_token_ids": [2], "logit_bias": {"4": -1.0},
    }  # fmt: skip
    assert not {"top_k", "stop", "logit_bias"} & remote.body_of(Request("a", (1,)), "s").keys()


@pytest.mark.parametrize(("owner", "all"), [("vllm", -1), ("sglang", -1), ("tunesmith", 0)])
def test_servers_with_defaults_of_their_own_are_told_everything(server, owner, all):
    """They would take the model's generation config for what is not said."""
    server.owner = owner
    generator = RemoteGenerator(server.url)
    events = generator.generate([Request("a", (7, 8))])["a"]
    plain, mine = (
        server.bodies[0],
        remote.body_of(Request("a", (1,), Sampling(top_k=5)), "s", owner),
    )
    assert (plain["top_k"], plain["min_p"], plain["repetition_penalty"]) == (all, 0.0, 1.0)
    assert mine["top_k"] == 5
    assert [event.token for event in events] == ([7, 8] if owner == "vllm" else [-1, -1])


@pytest.mark.parametrize(
    ("said", "reason"), [("abort", "cancelled"), ("error", "error"), ("repetition", "error")]
)
def test_a_servers_own_reasons_are_told_as_ours(server, said, reason):
    server.ends = said
    events = RemoteGenerator(server.url).generate([Request("a", (7, 8))])["a"]
    assert [event.finish_reason for event in events] == [None, reason]


def test_what_a_server_can_not_do_is_refused(server):
    generator = RemoteGenerator(server.url)
    for wrong in ({"adapter": "none"}, {"constraint": 1}, {"sampling": Sampling(typical_p=0.5)}):
        with pytest.raises(ConfigError, match="C210"):
            generator.submit(Request("a", (1,), **wrong))
    generator.check(Request("a", (1,), adapter="other"))


def test_no_engine_there(server, monkeypatch):
    with pytest.raises(ConfigError, match="G128"):
        RemoteGenerator(server.url, name="none")
    with pytest.raises(ConfigError, match="G128"):
        RemoteGenerator("http://127.0.0.1:9")


def test_a_remote_engine_by_name(server):
    assert isinstance(base.build("remote", server.url, None), RemoteGenerator)

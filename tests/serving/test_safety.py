"""Keys, Host and Origin; and that nothing that was said is written down."""

from __future__ import annotations

import logging

import httpx2 as httpx
import pytest

from tunesmith.errors import ServeError
from tunesmith.serving import safety
from tunesmith.serving.safety import Access

KEY = "k" * 32
BODY = {"messages": [{"role": "user", "content": "my secret is 1234"}]}


@pytest.fixture
def kept(scripted):
    """A server that wants a key."""
    with scripted(lambda request: [70], settings={"access": Access(KEY)}) as (served, _):
        yield served


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nowhere"])
def test_every_route_wants_the_key(kept, path):
    assert kept.http.get(path).status_code == 401
    for wrong in ("", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer ü"):
        headers = {"authorization": wrong.encode()}
        refused = kept.http.get(path, headers=headers)
        assert refused.status_code == 401
        assert refused.json()["error"]["tunesmith"] == "S114"
        assert refused.headers["www-authenticate"] == "Bearer"
    good = kept.http.get(path, headers={"authorization": f"Bearer {KEY}"})
    assert good.status_code == (404 if path == "/nowhere" else 200)


def test_the_page_is_open_and_tells_nothing_of_this_server(kept):
    """A browser can't send a key with its first request; the page asks for it."""
    page = kept.http.get("/docs")
    assert page.status_code == 200
    assert 'type="password"' in page.text
    assert "'none'" in page.headers["content-security-policy"]
    assert "tiny" not in page.text
    for path in ("/docs/", "//docs", "/docs/../v1/models", "/v1/models?x=/docs"):
        assert kept.http.get(path).status_code in (401, 404, 200)
        assert '"data"' not in kept.http.get(path).text


def test_health_alone_is_open(kept):
    assert kept.http.get("/health").json() == {"status": "ok"}
    for path in ("/health/", "//health", "/health/../v1/models", "/v1/models?x=/health"):
        assert kept.http.get(path).status_code in (401, 404)
        assert "data" not in kept.http.get(path).text


def test_the_official_client_sends_the_key(kept):
    import openai

    client = openai.OpenAI(base_url=f"{kept.url}/v1", api_key=KEY, max_retries=0)
    assert client.models.list().data
    wrong = openai.OpenAI(base_url=f"{kept.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil", "a@[", ""])
def test_a_foreign_host_is_refused(tiny, host):
    """DNS rebinding: a page of evil.example that points its name here."""
    refused = tiny.http.get("/v1/models", headers={"host": host})
    assert refused.status_code == 421
    assert refused.json()["error"]["tunesmith"] == "S115"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8000"])
def test_names_of_this_machine_are_served(tiny, host):
    assert tiny.http.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "file://", "http://localhost:1"])
def test_pages_of_others_may_not_ask(tiny, origin):
    refused = tiny.post("/v1/chat/completions", BODY, headers={"origin": origin})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def test_pages_of_its_own_and_those_allowed_may(scripted, tiny):
    assert tiny.http.get("/v1/models", headers={"origin": tiny.url}).status_code == 200
    page = "https://page.example"
    access = Access(origins=(page,))
    with scripted(lambda request: [70], settings={"access": access}) as (served, _):
        asks = {"origin": page, "access-control-request-method": "POST"}
        asks["access-control-request-headers"] = "content-type"
        assert served.http.options("/v1/models", headers=asks).status_code == 200
        reply = served.post("/v1/chat/completions", BODY, headers={"origin": page})
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == page
        other = served.http.get("/v1/models", headers={"origin": "https://other.example"})
        assert other.status_code == 403


def test_what_was_said_is_not_logged(scripted, caplog):
    caplog.set_level(logging.DEBUG, "tunesmith.serving")
    with scripted(lambda request: [70]) as (served, _):
        served.post("/v1/chat/completions", BODY)
        served.http.get("/v1/models/%1b[31mevil%0aline?prompt=1234")
    assert "POST /v1/chat/completions 200" in caplog.text
    assert "1234" not in caplog.text
    assert "evil" not in caplog.text
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_addresses_want_a_key(host):
    with pytest.raises(ServeError, match="S101"):
        safety.access(host, None, (), ())
    found = safety.access(host, KEY, (), ())
    assert found.key == KEY
    assert found.hosts == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_loopback_wants_none(host):
    assert safety.access(host, None, ("my.name",), ()).hosts == (*safety.LOOPBACK, "my.name")


@pytest.mark.parametrize("key", ["", "with blank", "ü" * 20, "short", "new\nline-is-no-header-x"])
def test_keys_that_are_none(key):
    with pytest.raises(ServeError, match=r"S105|S101"):
        safety.access("0.0.0.0", key, (), ())


def test_the_docs_page_loads_nothing_from_elsewhere(tiny):
    page = tiny.http.get("/docs")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "innerHTML" not in page.text


def test_half_open_sockets_hold_nobody_up(tiny):
    import socket

    host, port = tiny.url.removeprefix("http://").split(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(200)]
    for half in sockets:
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
    assert httpx.get(f"{tiny.url}/v1/models", timeout=2).status_code == 200
    for half in sockets:
        half.close()


def test_headers_that_trickle_in_are_given_up(scripted, monkeypatch):
    import socket

    from tunesmith.serving import protocol

    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    with scripted(lambda request: [70]) as (served, _):
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-")
            assert slow.recv(100) == b""


def test_a_client_that_stops_reading_is_cut_off(scripted, monkeypatch):
    import json
    import socket

    from tests.serving.conftest import wait_for
    from tunesmith.serving import protocol

    monkeypatch.setattr(protocol, "STALL_SECONDS", 0.3)
    with scripted(lambda request: [70] * 100_000) as (served, generator):
        host, port = served.url.removeprefix("http://").split(":")
        body = json.dumps({**BODY, "stream": True, "logprobs": True}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        )
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((host, int(port)))
            deaf.sendall(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + body)
            wait_for(lambda: generator.seen)
            wait_for(lambda: not generator.running)
        assert generator.cancelled


@pytest.mark.parametrize(
    "headers", [{"x-long": "x" * 100_000}, {f"x-{n}": "x" * 900 for n in range(40)}]
)
def test_headers_end_at_32_kb_in_one_write_too(tiny, headers):
    refused = tiny.http.get("/v1/models", headers=headers)
    assert refused.status_code == 431
    assert refused.json()["error"]["tunesmith"] == "S116"
    assert refused.headers["connection"] == "close"
    address = tiny.http.get("/v1/models?" + "x" * 33_000)
    assert address.status_code == 431
    assert tiny.http.get("/v1/models", headers={"x-long": "x" * 30_000}).status_code == 200

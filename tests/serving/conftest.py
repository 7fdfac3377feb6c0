"""Servers on free ports, in threads of this process."""

from __future__ import annotations

import dataclasses
import ssl
import threading
import time
from contextlib import contextmanager
from functools import cached_property

import httpx2 as httpx
import openai
import pytest

from tests.serving.scripted import ScriptedGenerator
from tunesmith.compose import sampling, serving
from tunesmith.serving import server
from tunesmith.templates import base as templates

TLS = ssl.create_default_context()  # once; a client would make its own


class Running:
    """A server that answers, and clients for it."""

    def __init__(self, server, url):
        self.server, self.url = server, url
        self.service = server.service
        self.http = httpx.Client(base_url=url, timeout=60, verify=TLS)

    @cached_property
    def openai(self):
        """The official client, made where it is needed: reading all certificates takes a while."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    def post(self, path, body, **more):
        return self.http.post(path, json=body, **more)


@contextmanager
def running(offers, **settings):
    """A server over offers until the block ends."""
    socket = server.bind("127.0.0.1", 0)
    made = server.Server(offers, server.Settings(**settings), lambda text: None)
    thread = threading.Thread(target=made.run, args=([socket],), daemon=True)
    thread.start()
    wait_for(lambda: made.started)
    found = Running(made, server.address(socket))
    try:
        yield found
    finally:
        found.http.close()
        if "openai" in vars(found):
            found.openai.close()
        made.force_exit = True  # tests of the end are over: nobody is left to be heard out
        made.stop()
        thread.join(30)
        assert not thread.is_alive()


def wait_for(true, seconds=30.0):
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def tiny_offer():
    return serving.offers("builtin:tiny", "tiny", {}, slots=8)[0]


@pytest.fixture(scope="session")
def tiny(tiny_offer):
    """The embedded model, served."""
    with running([tiny_offer]) as found:
        yield found


@pytest.fixture
def scripted(tiny_offer):
    """Serves an engine with a script: `with scripted(script, …) as (running, generator)`."""

    @contextmanager
    def serve(script, *, pause=0.0, template=None, wrap=None, settings=None, **fields):
        chat = tiny_offer.template
        if template is not None:
            chat = templates.load(template, tiny_offer.tokenizer.path)
        chat = wrap(chat) if wrap else chat
        generator = ScriptedGenerator(chat.tokenizer, script, pause)
        defaults = sampling.defaults(chat, None)
        given = {"generator": generator, "template": chat, "defaults": defaults, **fields}
        offer = dataclasses.replace(tiny_offer, **given)
        with running([offer], **(settings or {})) as found:
            yield found, generator

    return serve

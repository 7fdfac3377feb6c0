"""llama.cpp over a GGUF file written here, against the greedy tokens of transformers; and the
engine against a module of its interface, for what a real model seldom does.
"""

from __future__ import annotations

import json
import sys
import types
from typing import ClassVar

import pytest

from tests.generation.gguf_file import write
from tunesmith.compose import gguf
from tunesmith.errors import ConfigError, EnvironmentFault, MissingExtra
from tunesmith.generation import base
from tunesmith.types import Conversation, Message, Request, Sampling

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}\n"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


@pytest.fixture(scope="session")
def file(shared_data, tmp_path_factory):
    folder = shared_data / "models" / "stories260K"
    path = tmp_path_factory.mktemp("gguf") / "stories.gguf"
    return write(folder / "hf", folder / "tok512.bin", path, TEMPLATE)


@pytest.fixture(scope="session")
def opened(file):
    pytest.importorskip("xllamacpp")
    return gguf.load(str(file), slots=4)


@pytest.fixture(scope="session")
def golden(shared_data):
    found = json.loads((shared_data / "models" / "GOLDEN.json").read_text())["stories260K"]
    return [entry for entry in found if "prompt" in entry]


def test_greedy_tokens_are_those_of_transformers(opened, golden):
    requests = [
        Request(
            str(at),
            tuple(e["prompt_ids"]),
            Sampling(max_tokens=len(e["output_ids"]), stop_ids=(2,)),
        )
        for at, e in enumerate(golden)
    ]
    events = opened.generator.generate(requests)
    for at, entry in enumerate(golden):
        assert [event.token for event in events[str(at)]] == entry["output_ids"]
        assert events[str(at)][-1].finish_reason == "length"
    first = base.text(events["0"])
    assert golden[0]["text"].endswith(first)


def test_ids_are_made_by_the_files_own_template_and_tokenizer(opened, golden):
    assert opened.template.jinja == TEMPLATE
    assert opened.tokenizer.adds_bos
    for entry in golden:
        assert [1, *opened.tokenizer.encode_text(entry["prompt"])] == entry["prompt_ids"]
    talk = Conversation((Message.of("user", "</s> Hi"),))
    ids = opened.template.prompt_ids(talk)
    assert 2 not in ids, "text never becomes a control token"
    assert opened.tokenizer.decode(ids).endswith("<|assistant|> ")


def test_a_seed_repeats_and_sampling_is_heeded(opened, golden):
    ids = tuple(golden[0]["prompt_ids"])

    def said(**fields):
        request = Request("a", ids, Sampling(**{"max_tokens": 12, "temperature": 1.5, **fields}))
        return [event.token for event in opened.generator.generate([request])["a"]]

    assert said(seed=1) == said(seed=1)
    assert said(seed=1) != said(seed=2)
    assert said(seed=1, top_k=1) == golden[0]["output_ids"][:12]
    assert said(temperature=0, logit_bias=((300, 100.0),)) == [300] * 12
    assert said(temperature=0, repetition_penalty=3.0) != golden[0]["output_ids"][:12]


def test_stop_strings_and_the_likeliest_tokens(opened, golden):
    ids = tuple(golden[0]["prompt_ids"])
    request = Request("a", ids, Sampling(max_tokens=40, stop=(" Lily",), top_logprobs=3))
    events = opened.generator.generate([request])["a"]
    assert base.text(events) == ", there was a little girl named"
    assert events[-1].finish_reason == "stop"
    assert len(events[0].top) == 3
    assert events[0].top[0] == (events[0].token, events[0].logprob)


def test_a_request_is_cancelled(opened, golden):
    made = opened.generator
    made.submit(Request("gone", tuple(golden[0]["prompt_ids"]), Sampling(max_tokens=400)))
    made.cancel("gone")
    made.cancel("nobody")
    events = []
    while not events or events[-1].finish_reason is None:
        events += made.step()
    assert events[-1].finish_reason == "cancelled"
    assert made.step() == []


def test_chat_and_generate_take_a_file(file, capsys, monkeypatch):
    pytest.importorskip("xllamacpp")
    import io

    from tunesmith.cli.main import main

    words = ["generate", str(file), "--raw", "-p", "Once upon a time", "--max-tokens", "12"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(", there was a little girl")
    assert "llama.cpp" in shown.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hi\nexit\n")))
    assert main(["chat", str(file), "--max-tokens", "4"]) == 0
    assert "Assistant: " in capsys.readouterr().out


def test_a_schema_is_refused_for_a_file(file, tmp_path, capsys):
    pytest.importorskip("xllamacpp")
    from tunesmith.cli.main import main

    schema = tmp_path / "s.json"
    schema.write_text("{}")
    assert main(["generate", str(file), "-p", "x", "--schema", str(schema)]) == 2
    assert "G124" in capsys.readouterr().err


def test_serve_takes_a_file(file):
    pytest.importorskip("xllamacpp")
    import openai

    from tests.serving.conftest import running
    from tunesmith.compose import serving

    offers = serving.offers(str(file), "stories", {}, slots=4)
    with running(offers) as served:
        client = served.openai
        reply = client.completions.create(
            model="stories", prompt="Once upon a time", max_tokens=10, logprobs=2
        )
        assert reply.choices[0].text.startswith(", there was a little girl")
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 10
        assert len(reply.choices[0].logprobs.tokens) == 10
        ask = [{"role": "user", "content": "Hi"}]
        for more in ({"response_format": {"type": "json_object"}}, {"presence_penalty": 1}):
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="stories", messages=ask, **more)
        with pytest.raises(openai.BadRequestError, match="writes"):
            client.embeddings.create(model="stories", input="Hi")
        with pytest.raises(openai.BadRequestError, match="writes"):
            client.completions.create(
                model="stories", prompt="Hi all", max_tokens=0, echo=True, logprobs=1
            )


# ---------------------------------------------------------------- a module of its interface


class Server:
    """Streams what a test says."""

    chunks: ClassVar[list] = []
    bodies: ClassVar[list] = []

    def __init__(self, params):
        self.odd = "odd" in params.model.path
        if "broken" in params.model.path:
            raise RuntimeError("unknown architecture")

    def handle_completions(self, body, take=None):
        if take is None:  # tried out
            return {"error": {"message": "no such tensor"}} if self.odd else {}
        self.bodies.append(body)
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if take(chunk):
                return


@pytest.fixture
def fake(monkeypatch, file):
    from tunesmith.generation.llamacpp import LlamacppGenerator

    module = types.ModuleType("xllamacpp")
    module.Server = Server
    module.CommonParams = lambda: types.SimpleNamespace(model=types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    monkeypatch.setattr(Server, "bodies", [])

    def build(*chunks):
        monkeypatch.setattr(Server, "chunks", list(chunks))
        return LlamacppGenerator(file, types.SimpleNamespace(eos_id=2))

    return build


def chunk(text, id=None, reason=None):
    told = [{"id": id, "logprob": -0.5, "top_logprobs": []}] if id is not None else []
    choice = {"text": text, "logprobs": {"content": told} if told else None}
    return {"choices": [{**choice, "finish_reason": reason}]}


def answer(generator, **fields):
    request = Request("a", (1, 5), Sampling(**{"max_tokens": 3, **fields}))
    return [(e.token, e.text_delta, e.finish_reason) for e in generator.generate([request])["a"]]


def test_the_last_token_has_the_reason(fake):
    made = fake(chunk("x", 7), chunk("y", 8), chunk("z", 9), chunk("", reason="length"))
    assert answer(made) == [(7, "x", None), (8, "y", None), (9, "z", "length")]


def test_eos_ends_once_however_it_is_told(fake):
    told = [(7, "x", None), (2, "", "stop")]
    assert answer(fake(chunk("x", 7), chunk("", 2), chunk("", reason="stop"))) == told
    assert answer(fake(chunk("x", 7), chunk("", reason="stop"))) == told


def test_an_error_of_llama_cpp_ends_that_request(fake, caplog):
    assert answer(fake(chunk("x", 7), {"error": {"message": "too large"}}))[-1][2] == "error"
    assert "too large" in caplog.text
    assert answer(fake(RuntimeError("boom"))) == [(-1, "", "error")]
    assert "boom" in caplog.text


def test_the_body_says_what_was_asked(fake):
    made = fake(chunk("x", 7, "stop"))
    answer(made, max_tokens=9999, seed=2**40 + 5, top_k=3, repetition_penalty=1.2, stop=("a",))
    body = Server.bodies[0]
    assert body["prompt"] == [1, 5]
    assert body["n_predict"] == 510
    assert 0 <= body["seed"] < 2**32
    assert (body["top_k"], body["repeat_penalty"], body["stop"]) == (3, 1.2, ["a"])


def test_the_cache_is_bounded_and_what_is_left_is_said(fake, monkeypatch):
    from tunesmith.generation import llamacpp

    each = 5 * 2 * 4 * 8 * 2  # layers, keys and values, key heads, their width, float16
    for tokens, rows, context in ((512 * 40, 32, 512), (512 * 3, 3, 512), (300, 1, 300)):
        monkeypatch.setattr(llamacpp, "CACHE_BYTES", each * tokens)
        monkeypatch.setattr(llamacpp, "SHORTEST", 256)
        made = fake()
        assert (made.rows, made.context) == (rows, context)
        assert ("the file says 512" in made.notes[0]) == (context < 512)


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
def test_what_it_means_otherwise_is_refused(fake, field):
    with pytest.raises(ConfigError, match=field):
        answer(fake(), **{field: 0.5})
    with pytest.raises(ConfigError, match="constraint"):
        fake().submit(Request("a", (1,), constraint=object()))
    with pytest.raises(ConfigError, match="adapter"):
        fake().submit(Request("a", (1,), adapter="x"))


def test_a_file_that_is_no_model(fake, tmp_path, file, monkeypatch):
    from tunesmith.generation.llamacpp import LlamacppGenerator

    fake()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="unknown architecture") as caught:
        LlamacppGenerator(broken)
    assert caught.value.code == "G170"
    with pytest.raises(ConfigError, match="no such tensor"):
        LlamacppGenerator(broken.rename(tmp_path / "odd.gguf"))
    with pytest.raises(EnvironmentFault, match="E201"):
        gguf.load(str(tmp_path / "none.gguf"))
    (tmp_path / "text.gguf").write_text("no")
    with pytest.raises(EnvironmentFault, match="E221"):
        gguf.load(str(tmp_path / "text.gguf"))
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtra, match="gguf"):
        LlamacppGenerator(file)

"""`tunesmith serve`: what is refused before any weight is read. (Serving itself: tests/serving.)"""

from __future__ import annotations

import socket

import pytest

from tunesmith.cli import serve
from tunesmith.cli.main import main


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("TUNESMITH_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--host", "0.0.0.0"], "S101"),
        (["--host", "0.0.0.0", "--api-key", "short"], "S105"),
        (["--api-key", "with blank"], "S105"),
        (["--host", "256.1.1.1", "--api-key", "k" * 32], "S102"),
        (["--adapter", "miller"], "S103"),
        (["--adapter", "a=x", "--adapter", "a=y"], "S103"),
        (["--adapter", "builtin:tiny=x"], "S103"),
        (["--port", "70000"], "C202"),
        (["--engine", "remote"], "G150"),
        (["--sinks", "4"], "G160"),
    ],
    ids=str,
)
def test_words_that_are_refused(words, code, capsys):
    assert main(["serve", "builtin:tiny", *words]) != 0
    assert f"error[{code}]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"), [(["--window", "64"], "G161"), (["--engine", "torch"], "G150")], ids=str
)
def test_a_file_has_an_engine_of_its_own(words, code, capsys):
    assert main(["serve", "model.gguf", "--port", "0", *words]) != 0
    assert f"error[{code}]" in capsys.readouterr().err


def test_the_key_may_come_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("TUNESMITH_API_KEY", "too short")
    assert main(["serve", "builtin:tiny", "--host", "0.0.0.0"]) == 1
    shown = capsys.readouterr().err
    assert "error[S105]" in shown
    assert "too short" not in shown


def test_a_port_that_is_taken(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["serve", "builtin:tiny", "--port", port]) == 1
    shown = capsys.readouterr().err
    assert "error[S102]" in shown
    assert port in shown


def test_a_model_that_is_not_there(capsys):
    assert main(["serve", "no-such-model", "--port", "0"]) == 2
    assert "error[E201]" in capsys.readouterr().err


def test_names_for_clients(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert serve.label(str(folder)) == "my-model"
    assert serve.label("builtin:tiny") == "builtin:tiny"
    assert serve.label("last") == "last"

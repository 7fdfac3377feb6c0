"""The command line: verbs, exit codes, messages without tracebacks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from tunesmith import __version__
from tunesmith.cli import main as cli, output
from tunesmith.errors import DataError, MissingExtra, ResourceError


@pytest.fixture
def verb(monkeypatch):
    """Makes `tunesmith stop` do something else."""

    def verb(act):
        app = output.app(examples=["a", "b", "c"])

        @app.command()
        def command() -> None:
            """Do what the test says."""
            act()

        from tunesmith.cli import stop

        monkeypatch.setattr(stop, "app", app)

    return verb


def test_help_and_version(capsys):
    assert cli.main([]) == cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.VERBS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tunesmith {__version__}\n"


def test_an_unknown_verb(capsys):
    assert cli.main(["trian"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error[C201]")
    assert "did you mean `train`?" in message


@pytest.mark.parametrize("words", [["stop"], ["stop", "--bogus", "x"], ["runs", "bogus"]])
def test_words_that_do_not_fit(words, capsys):
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error[C202]")
    assert f"see tunesmith {words[0]} --help" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("D100", "no rows"), 3),
        (MissingExtra("datasets", "hub", "reading parquet"), 4),
        (ResourceError("M301", "too large"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes(verb, capsys, error, code):
    def fail():
        raise error

    verb(fail)
    assert cli.main(["stop"]) == code
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert len(message.splitlines()) <= 8


def test_a_verb_may_choose_its_exit_code(verb):
    import typer

    def leave():
        raise typer.Exit(6)

    verb(leave)
    assert cli.main(["stop"]) == 6
    verb(lambda: None)
    assert cli.main(["stop"]) == 0


def test_bugs_are_short_on_the_terminal_and_long_in_the_log(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    verb(lambda: 1 / 0)
    assert cli.main(["stop"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error[R900]: unexpected ZeroDivisionError")
    assert "Traceback" not in message
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert cli.main(["--debug", "stop"]) == cli.main(["stop", "--debug"]) == 1
    assert capsys.readouterr().err.count("Traceback") == 2
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "log.txt"))
    assert cli.main(["stop"]) == 1
    assert "--debug" in capsys.readouterr().err


@pytest.mark.parametrize("named", [("/data/store.bin",), ()])
def test_a_full_disk_is_told_as_such(verb, capsys, named):
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", *named)

    verb(full)
    assert cli.main(["stop"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error[R121]: No space left on device")
    assert (named[0] if named else "being written") in told


def test_a_reader_that_leaves_is_no_error():
    code = "from tunesmith.cli.main import main; import sys; sys.exit(main(['config', 'schema']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], ["torch", "transformers", "pydantic", "rich", "numpy", "typer", "yaml"]),
        (["config", "--help"], ["torch", "transformers", "pydantic", "rich", "numpy", "yaml"]),
        (["runs"], ["torch", "transformers", "rich", "numpy", "yaml"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_light_stays_light(words, heavy):
    """Help must not wait for pydantic or rich: they cost more than the help itself."""
    code = (
        "import sys\nfrom tunesmith.cli.main import main\n"
        f"main({words})\nprint([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_output_helpers(capsys, monkeypatch):
    assert [output.duration(s) for s in (31, 64.4, 7384)] == ["0:31", "1:04", "2:03:04"]
    assert [output.count(n) for n in (950, 5400, 12.3e6, 2e9)] == ["950", "5.4k", "12.3M", "2.0G"]
    assert output.split_recipe(["r.yaml", "a=1"]) == ("r.yaml", ["a=1"])
    assert output.split_recipe(["a=1"]) == (None, ["a=1"])
    assert output.split_recipe([]) == (None, [])
    assert output.split_recipes(["r.yaml", "s", "a=1", "b"]) == (["r.yaml", "s"], ["a=1", "b"])
    assert output.split_recipes(["a=1"]) == ([None], ["a=1"])
    output.table([{"a": 1, "b": None}, {"a": 22, "b": "x"}], ["a", "b"])
    assert capsys.readouterr().out == " a  b\n 1  –\n22  x\n"
    output.result({"ä": [1, 2.5]}, json=True)
    assert json.loads(capsys.readouterr().out) == {"ä": [1, 2.5]}
    output.log("seen")
    output.quiet(True)
    output.log("unseen")
    output.quiet(False)
    assert capsys.readouterr() == ("", "seen\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(os.environ, "NO_COLOR", "1")
    assert not output.colour()
    monkeypatch.delitem(os.environ, "NO_COLOR")
    assert output.colour()

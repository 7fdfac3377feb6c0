"""`tunesmith chat`: scripted through a pipe, and on a terminal with Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import CHATML
from tunesmith.cli import chat
from tunesmith.cli.answering import Voice
from tunesmith.cli.main import main

FEW = ("--max-tokens", "5")


@pytest.fixture
def say(monkeypatch, capsys):
    """Runs a chat on these lines; returns stdout and stderr."""

    def say(text, *words, code=0):
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["chat", *words]) == code
        shown = capsys.readouterr()
        return shown.out, shown.err

    return say


@pytest.fixture(scope="module")
def voice(tiny_model):
    return Voice.load(str(tiny_model), {"max_tokens": 5})


def test_a_scripted_chat(say, tiny_model):
    out, err = say("hi\nclear\nexit\nnever read\n", str(tiny_model), *FEW)
    assert out.count("Assistant: ") == 1
    assert out.endswith("History has been removed.\n")
    assert "`clear`" in err


def test_the_end_of_the_input_ends_the_chat(say, tiny_model):
    out, _ = say("hi\n\n  \nho", str(tiny_model), *FEW)
    assert out.count("Assistant: ") == 2


def test_history_is_kept_and_removed(voice, capsys):
    one = chat.Talker(voice, None)
    one.answer("hi", label="A")
    one.answer("ho", label="A")
    assert [message.role for message in one.messages] == ["user", "assistant"] * 2
    fresh = chat.Talker(voice, None)
    fresh.answer("ho", label="A")
    assert one.messages[2] == fresh.messages[0]
    ids = voice.chat_ids(one.messages[:3], None)
    assert len(ids) > len(voice.chat_ids(fresh.messages[:1], None))
    first = voice.chat_ids(one.messages[:1], None)
    assert ids[: len(first)] == first, "what was sent before is a prefix of what is sent now"


def test_old_turns_are_forgotten_when_the_context_is_full(voice, capsys):
    talker = chat.Talker(voice, "Be brief.")
    for number in range(12):
        talker.answer(f"{number:04}" * 10, label="A")
    assert "forgotten" in capsys.readouterr().err
    assert 2 <= len(talker.messages) < 24
    assert talker.messages[0].role == "user"
    assert talker.messages[-2].text == "0011" * 10
    assert len(voice.chat_ids(talker.messages, "Be brief.")) < voice.generator.context


def test_a_message_too_long_is_told_and_forgotten(say, tiny_model):
    out, err = say("x" * 2000 + "\nhi\n", str(tiny_model), *FEW)
    assert "D401" in err
    assert out.count("Assistant: ") == 1


def test_lines_that_are_not_utf8_are_told(say, tiny_model):
    out, err = say(b"\xff\xfe\nhi\n", str(tiny_model), *FEW)
    assert "not UTF-8" in err
    assert out.count("Assistant: ") == 1


def test_two_models_answer_with_histories_of_their_own(say, tiny_model):
    out, _ = say("hi\nho\n", str(tiny_model), "--compare", str(tiny_model), *FEW)
    assert out.count(f"…/{tiny_model.parent.name}/{tiny_model.name}: ") == 4
    first, second = out.splitlines()[:2]
    assert first == second, "the same model says the same"


def test_the_system_prompt_changes_what_is_sent(voice):
    from tunesmith.types import Message

    asked = [Message.of("user", "hi")]
    assert voice.chat_ids(asked, None) != voice.chat_ids(asked, "Be brief.")


def test_stop_strings_from_the_command_line(say, tiny_model):
    words = (str(tiny_model), "--max-tokens", "40", "--temperature", "1", "--seed", "1")
    answer = say("hi\n", *words)[0].removeprefix("Assistant: ")
    stop = answer[6:8]
    cut = say("hi\n", *words, "--stop", stop)[0].removeprefix("Assistant: ")
    assert cut == answer[: answer.index(stop)] + "\n"


def test_stop_strings_of_the_template_end_answers_too(say, tiny_model, tmp_path):
    """Where the next question is plain text, the model may write it instead of stopping."""
    words = ("--max-tokens", "40", "--temperature", "1", "--seed", "1")
    answer = say("hi\n", str(tiny_model), *words)[0].removeprefix("Assistant: ")
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    kept = json.dumps([answer[6:8], "never there"])
    made = f"{{#- tunesmith stops: {kept} -#}}\n{CHATML}"
    (model / "chat_template.jinja").write_text(made, "utf-8")
    cut = say("hi\n", str(model), *words)[0].removeprefix("Assistant: ")
    assert cut == answer[: answer.index(answer[6:8])] + "\n"


def test_there_must_be_a_base_to_compare_with(say, tiny_model):
    _, err = say("", str(tiny_model), "--compare", "base", code=2)
    assert "E211" in err


def test_a_run_answers_with_what_it_has_saved_and_says_which(
    say, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}", "completion": "yes"} for n in range(8)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "model": str(tiny_model),
        "data": {"train": "rows.jsonl", "max_length": 64},
        "train": {"max_steps": 2, "save_steps": 1, "dtype": "float32"},
        "output": {"name": "short"},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe))
    assert main(["train", "recipe.yaml"]) == 0
    run = Path("runs/short")
    assert "short/final" in say("hi\n", "short", *FEW)[1]
    shutil.rmtree(run / "final")
    assert "checkpoints/step-2" in say("hi\n", "short", *FEW)[1]
    newest = run / "checkpoints" / "step-2" / "MANIFEST.json"
    newest.unlink()  # as if it had been torn
    assert "checkpoints/step-1" in say("hi\n", "short", *FEW)[1]
    shutil.rmtree(run / "checkpoints")
    out, err = say("hi\n", "short", *FEW)
    assert "short has neither final/ nor a checkpoint yet: its base answers" in err
    assert str(tiny_model) in err
    assert out.startswith("Assistant: ")
    assert "R108" in say("hi\n", "short@step-1", *FEW, code=1)[1]


# ---------------------------------------------------------------- on a terminal


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, *words: str, before=None):
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "tunesmith.cli.main", "chat", *words]
        env = os.environ | {"NO_COLOR": "1", "TERM": "dumb"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
            preexec_fn=before,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        limit = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            assert time.monotonic() < limit, self.shown
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.master, 4096).decode(errors="replace")
                except OSError:  # the other end is closed
                    pytest.fail(f"the chat ended early: {self.shown}")

    def type(self, text: str) -> None:
        self.shown = ""
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        self.shown = ""
        self.process.send_signal(signal.SIGINT)


def ignoring():
    """What a shell does to a job in its background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, ignoring])
def test_ctrl_c_ends_an_answer_and_the_next_one_leaves(shared_data, before):
    model = str(shared_data / "models" / "stories260K" / "hf")
    words = ("--max-tokens", "400", "--temperature", "1", "--stop", "never there")
    chat = Terminal(model, *words, before=before)
    chat.wait_for("User: ")
    chat.type("Once upon a time\n")
    chat.wait_for(r"Assistant: .{20}")
    chat.interrupt()
    chat.wait_for(r" …\r\n\r\nUser: ")
    chat.type("clear\n")
    chat.wait_for("History has been removed")
    chat.wait_for("User: ")
    time.sleep(0.5)  # CPython may miss one that comes just as input() begins to wait
    for _ in range(3):
        chat.interrupt()
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert chat.process.wait(15) == 130
            return
    pytest.fail("Ctrl-C does not leave")


@pytest.mark.slow
def test_exit_on_a_terminal(tiny_model):
    chat = Terminal(str(tiny_model), *FEW)
    chat.wait_for("User: ")
    chat.type("exit\n")
    assert chat.process.wait(20) == 0


def test_a_terminal_shows_no_control_codes(monkeypatch):
    from tunesmith.cli import answering

    text = "a\x1b[31mb\x07\tc\nd\x9bé"
    assert answering.visible(text) == text
    monkeypatch.setattr("sys.stdout", type("T", (), {"isatty": lambda self: True})())
    assert answering.visible(text) == "a\ufffd[31mb\ufffd\tc\nd\ufffdé"


def test_thoughts_are_shown_but_not_remembered(capsys):
    shown = chat.Shown()
    shown.add("hm", "")
    shown.add("", "yes")
    assert capsys.readouterr().out == "hm\n\nyes"
    assert shown.answer == "yes"

"""`generate --input … --output …`: every data format, the layouts of other tools, and kill -9."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.forked import Forked
from tests.rows import lines, write
from tunesmith.cli.answer_file import AnswerFile
from tunesmith.cli.main import main

FEW = ("--max-tokens", "4")


# ---------------------------------------------------------------- formats

USER = [{"role": "user", "content": "q"}]
ROWS = [
    ({"instruction": "q", "input": "", "output": "a"}, "q", "a"),
    ({"instruction": "q", "input": "more", "output": ""}, "q\nmore", None),
    ({"instruction": "q"}, "q", None),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "q", "a"),
    ({"messages": USER}, "q", None),
    ({"question": "q", "answer": "a"}, "q", "a"),
    ({"question": "q"}, "q", None),
    ({"src": "q"}, "q", None),
    ({"src": "q", "tgt": "a"}, "q", "a"),
    ({"src": ["q"], "tgt": []}, "q", None),
    ({"prompt": "q", "completion": "a"}, "q", "a"),
    ({"prompt": "q", "number": 7}, "q", None),
    ({"question": "q", "chosen": "a", "rejected": "b"}, "q", "a"),
    ({"prompt": "q", "completion": "a", "label": True}, "q", "a"),
    ({"prompt": "q", "completion": "a", "label": False}, "q", None),
    ({"text": "q"}, "q", None),
]


def test_rows_of_every_format_in_one_file(tiny_model, here, capsys):
    source = write(here / "in.jsonl", [row for row, _, _ in ROWS])
    words = ["generate", str(tiny_model), "--input", source, "--output", "out.jsonl", *FEW]
    assert main(words) == 0, capsys.readouterr().err
    found = [(line["prompt"], line.get("reference")) for line in lines(here / "out.jsonl")]
    assert found == [(asked, known) for _, asked, known in ROWS]


def test_earlier_turns_and_a_system_prompt_are_sent(tiny_model, here):
    """PaddleNLP's lists with one question more than answers, and Alpaca's history."""
    rows = [
        {"src": ["one", "two"], "tgt": ["first"]},
        {"instruction": "two", "input": "", "history": [["one", "first"]], "system": "be kind"},
    ]
    source = write(here / "in.jsonl", rows)
    assert main(["generate", str(tiny_model), "--input", source, "--output", "o.jsonl", *FEW]) == 0
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "first"}]
    said.append({"role": "user", "content": "two"})
    both = [line["messages"] for line in lines(here / "o.jsonl")]
    assert both == [said, [{"role": "system", "content": "be kind"}, *said]]


def test_columns_may_be_named(tiny_model, here):
    (here / "in.csv").write_text("frage,antwort\nq,a\n")
    words = ["--input", "in.csv", "--columns", "prompt=frage,completion=antwort"]
    assert main(["generate", str(tiny_model), *words, "--output", "o.jsonl", *FEW]) == 0
    (line,) = lines(here / "o.jsonl")
    assert (line["prompt"], line["reference"]) == ("q", "a")


# ---------------------------------------------------------------- layouts

SHAPES = {
    "llamafactory": {"label": "reference", "predict": "answer"},
    "paddlenlp": {"output": "answer", "tgt": "reference"},
    "paddlenlp_predictor": {"src": "prompt", "tgt": "reference", "output": "answer"},
    "llm_tuning": {"prompt": "prompt", "target": "reference", "prediction": "answer"},
    "chinese_alpaca": {"Input": "prompt", "Output": "answer"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_layouts_of_other_tools(name, tiny_model, here, capsys):
    rows = [{"prompt": "世界", "completion": 'a\n"b"'}, {"prompt": "x"}]
    source = write(here / "in.jsonl", rows)
    words = ["generate", str(tiny_model), "--input", source, *FEW]
    assert main([*words, "--output", "ours.jsonl"]) == 0
    assert main([*words, "--output", "theirs", "--to", name]) == 0
    ours = [{"reference": "", **line} for line in lines(here / "ours.jsonl")]
    text = (here / "theirs").read_text()
    found = json.loads(text) if name == "chinese_alpaca" else lines(here / "theirs")
    assert found == [{key: line[what] for key, what in SHAPES[name].items()} for line in ours]
    assert list(found[0]) == list(SHAPES[name])
    assert sorted(p.name for p in here.iterdir()) == ["in.jsonl", "ours.jsonl", "theirs"]
    capsys.readouterr()
    assert main([*words, "--to", name]) == 0  # to stdout: the very file
    assert capsys.readouterr().out == text


def test_what_a_layout_has_no_place_for_is_said(tiny_model, here, capsys):
    turns = [*USER, {"role": "assistant", "content": "a"}, *USER]
    source = write(here / "in.jsonl", [{"messages": turns}])
    words = ["generate", str(tiny_model), "--input", source, *FEW, "--output", "o.json"]
    assert main([*words, "--to", "chinese_alpaca"]) == 0
    told = capsys.readouterr().err
    assert "1 row(s) have system prompts or earlier turns" in told
    assert "1 answer(s) end at their longest length" in told
    assert json.loads((here / "o.json").read_text())[0]["Input"] == "q"


def test_an_unknown_layout_is_refused_with_those_there_are(tiny_model, here, capsys):
    source = write(here / "in.jsonl", [{"prompt": "x"}])
    assert main(["generate", str(tiny_model), "--input", source, "--to", "llamafactor"]) == 2
    told = capsys.readouterr().err
    assert "G130" in told
    assert "did you mean `llamafactory`?" in told


# ---------------------------------------------------------------- kill -9


@pytest.mark.parametrize(("layout", "least"), [("tunesmith", 40), ("chinese_alpaca", 1)])
def test_a_killed_run_goes_on_without_loss_or_repetition(
    layout, least, tiny_model, here, capsys, tmp_path_factory
):
    rows = [{"prompt": f"question {at}", "completion": str(at)} for at in range(120)]
    source = write(here / "in.jsonl", rows)
    words = ["generate", str(tiny_model), "--input", source, "--max-tokens", "40", "--to", layout]
    assert main([*words, "--output", "whole"]) == 0
    part = here / "out.part"
    lots = [*words, "--output", "out"]
    running = Forked(lambda: main(lots), tmp_path_factory.mktemp("log") / "log.txt")
    end = time.monotonic() + 120
    while not part.exists() or part.read_bytes().count(b"\n") < least:
        assert running.poll() is None, f"over before it could be killed: {running.said()}"
        assert time.monotonic() < end
        time.sleep(0.002)
    running.kill()
    assert running.returncode == -signal.SIGKILL
    assert not (here / "out").exists()
    before = part.read_bytes().count(b"\n")
    with part.open("ab") as stream:
        stream.write(b'{"prompt": "half a li')
    capsys.readouterr()
    assert main(lots) == 0
    assert f"{before} of 120 were answered before" in capsys.readouterr().err
    assert (here / "out").read_bytes() == (here / "whole").read_bytes()
    assert sorted(p.name for p in here.iterdir()) == ["in.jsonl", "out", "whole"]


def test_two_processes_do_not_write_one_file(tiny_model, here, capsys):
    import fcntl

    source = write(here / "in.jsonl", [{"prompt": "x"}])
    with (here / "out.part").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        words = ["generate", str(tiny_model), "--input", source, "--output", "out", *FEW]
        assert main(words) == 2
    assert "G134" in capsys.readouterr().err
    assert main(words) == 0


def test_torn_settings_are_not_taken_up(tiny_model, here, capsys):
    source = write(here / "in.jsonl", [{"prompt": "x"}])
    write(here / "out.part", [{"prompt": "x", "answer": "y"}])
    (here / "out.part.json").write_text('{"model": ')
    assert main(["generate", str(tiny_model), "--input", source, "--output", "out", *FEW]) == 2
    assert "C212" in capsys.readouterr().err


def test_unicodes_own_line_ends_are_no_ends_of_rows(tmp_path):
    path, lines = tmp_path / "out", [{"prompt": f"one\u2028two\u0085three {at}"} for at in range(3)]
    with AnswerFile(path, {}) as file:
        for line in lines:
            file.add(line)
    with AnswerFile(path, {}) as file:
        assert file.done == lines

"""`tunesmith generate`: one prompt, files in their order, rows that can't be answered."""

from __future__ import annotations

import json

import pytest

from tests.rows import lines, write
from tunesmith.cli.main import main

FEW = ("--max-tokens", "6")


def test_a_story_is_continued(shared_data, capsys):
    model = str(shared_data / "models" / "stories260K" / "hf")
    assert main(["generate", model, "--raw", "-p", "Once upon a time", "--max-tokens", "60"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(", there was a little girl named Lily. She loved to play outside")
    assert "greedy" in shown.err


def test_json_tells_tokens_and_logprobs(tiny_model, capsys):
    words = ["generate", str(tiny_model), "-p", "hi", "--json", *FEW]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"] == "hi"
    assert found["finish_reason"] == "length"
    assert found["answer_tokens"] == len(found["tokens"]) == 6
    assert all(token["logprob"] <= 0 for token in found["tokens"])


def test_a_prompt_from_stdin(tiny_model, capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("hi"))
    assert main(["generate", str(tiny_model), "-p", "-", *FEW]) == 0
    piped = capsys.readouterr().out
    assert main(["generate", str(tiny_model), "-p", "hi", *FEW]) == 0
    assert capsys.readouterr().out == piped


def test_a_seed_repeats_and_another_does_not(tiny_model, capsys):
    def said(*words):
        assert main(["generate", str(tiny_model), "-p", "hi", *FEW, *words]) == 0
        return capsys.readouterr().out

    hot = ("--temperature", "1.5", "--seed")
    assert said(*hot, "1") == said(*hot, "1") != said(*hot, "2")
    assert said() == said("--temperature", "0")


def test_a_file_is_answered_line_by_line_in_order(tiny_model, here, capsys):
    rows = [
        {"prompt": "a" * 40},
        {"prompt": "b", "completion": "wanted"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}]},
        {
            "messages": [
                {"role": "user", "content": "d"},
                {"role": "assistant", "content": "the reference"},
            ]
        },
        {"prompt": "世界"},
    ]
    source = write(here / "in.jsonl", rows)
    words = ["generate", str(tiny_model), "--input", source, *FEW]
    assert main([*words, "--output", "out.jsonl"]) == 0
    found = lines(here / "out.jsonl")
    assert [line.get("prompt") for line in found] == ["a" * 40, "b", None, "d", "世界"]
    assert [line.get("reference") for line in found] == [
        None,
        "wanted",
        None,
        "the reference",
        None,
    ]
    assert found[2]["messages"] == rows[2]["messages"]
    assert not (here / "out.jsonl.part").exists()
    capsys.readouterr()
    assert main(words) == 0  # without --output: the same lines on stdout
    shown = capsys.readouterr()
    assert [json.loads(line) for line in shown.out.splitlines()] == found
    assert "5 of 5 answered" in shown.err
    alone = ["generate", str(tiny_model), "-p", "b", "--json", *FEW]
    assert main(alone) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == found[1]["answer"]


def test_an_interrupted_run_goes_on(tiny_model, here, capsys, monkeypatch):
    """Broken off in the middle of a line, the file in the end is the same as in one go."""
    from tunesmith.generation import base

    source = write(here / "in.jsonl", [{"prompt": f"{i:03}" * (i % 3 + 1)} for i in range(11)])
    words = ["generate", str(tiny_model), "--input", source, "--max-tokens", "2", "--output"]
    assert main([*words, "whole.jsonl"]) == 0
    whole, asked = (here / "whole.jsonl").read_bytes(), []
    prompts = [line["prompt"] for line in lines(here / "whole.jsonl")]
    assert [prompt[:3] for prompt in prompts] == [f"{i:03}" for i in range(11)]
    own = base.in_order

    def broken(generator, requests, ahead=3):
        for at, events in enumerate(own(generator, requests, ahead)):
            if at == 4:
                raise KeyboardInterrupt
            yield events

    monkeypatch.setattr(base, "in_order", broken)
    assert main([*words, "out.jsonl"]) != 0
    assert not (here / "out.jsonl").exists()
    with (here / "out.jsonl.part").open("ab") as part:
        part.write(b'{"prompt": "004')

    def counting(generator, requests, ahead=64):
        asked.extend(requests)
        return own(generator, requests, ahead)

    monkeypatch.setattr(base, "in_order", counting)
    capsys.readouterr()
    assert main([*words, "out.jsonl", "--temperature", "1"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*words, "out.jsonl"]) == 0
    assert "4 of 11 were answered before" in capsys.readouterr().err
    assert len(asked) == 7
    assert (here / "out.jsonl").read_bytes() == whole
    assert sorted(path.name for path in here.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_other_questions_are_not_taken_up(tiny_model, here, capsys):
    source = write(here / "in.jsonl", [{"prompt": "a"}])
    words = ["generate", str(tiny_model), "--input", source, *FEW, "--output", "out.jsonl"]
    assert main(words) == 0
    (here / "out.jsonl").rename(here / "out.jsonl.part")
    assert main(words) == 2  # nobody knows what these lines were made with
    assert "C212" in capsys.readouterr().err


def test_answers_by_a_schema(tiny_model, here, capsys):
    schema = {"properties": {"good": {"type": "boolean"}}, "required": ["good"]}
    schema |= {"type": "object", "additionalProperties": False}
    (here / "schema.json").write_text(json.dumps(schema))
    words = ["generate", str(tiny_model), "-p", "hi", "--schema", "schema.json", "--json"]
    assert main([*words, "--max-tokens", "60"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finish_reason"] == "stop"
    assert json.loads(found["answer"])["good"] in (True, False)
    (here / "schema.json").write_text('{"not": {"type": "null"}}')
    assert main(words) == 2
    assert "`not`" in capsys.readouterr().err
    (here / "schema.json").write_text("{")
    assert main(words) == 2
    assert "G126" in capsys.readouterr().err


def test_an_output_file_is_not_overwritten(tiny_model, here, capsys):
    source = write(here / "in.jsonl", [{"prompt": "a"}])
    (here / "out.jsonl").write_text("mine")
    words = ["generate", str(tiny_model), "--input", source, "--output", "out.jsonl"]
    assert main(words) == 2
    assert "C212" in capsys.readouterr().err
    assert (here / "out.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("row", "words", "code", "status"),
    [
        ({"prompt": "x" * 600}, [], "D401", 3),
        ({"prompt": ""}, ["--raw"], "D402", 3),
        ({"messages": [{"role": "user", "content": "a"}]}, ["--raw"], "D403", 3),
        ({"messages": [{"role": "assistant", "content": "a"}]}, [], "D403", 3),
        ({"prompt": "x"}, ["--temperature", "-1"], "C210", 2),
    ],
    ids=str,
)
def test_rows_that_can_not_be_answered_stop_before_the_work(
    row, words, code, status, tiny_model, here, capsys
):
    source = write(here / "in.jsonl", [{"prompt": "fine"}, row])
    out = ["--output", "out.jsonl", *FEW]
    assert main(["generate", str(tiny_model), "--input", source, *out, *words]) == status
    message = capsys.readouterr().err
    assert f"error[{code}]" in message
    if code.startswith("D"):
        assert "in.jsonl:" in message
    assert [path.name for path in here.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("words", [[], ["-p", "a", "--input", "b"]], ids=str)
def test_one_of_prompt_and_input(words, tiny_model, capsys):
    assert main(["generate", str(tiny_model), *words]) == 2
    assert "C213" in capsys.readouterr().err


def test_a_model_that_is_not_finite(tiny_model, here, capsys):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_model, here / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert main(["generate", str(broken), "-p", "a"]) == 1
    assert "R230" in capsys.readouterr().err
    source = write(here / "in.jsonl", [{"prompt": "a"}])
    assert main(["generate", str(broken), "--input", source]) == 1
    assert "R230" in capsys.readouterr().err


def test_the_generation_config_advises_and_flags_decide(tiny_model, here, capsys):
    import shutil

    advised = shutil.copytree(tiny_model, here / "advised")
    config = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "eos_token_id": [256, 257]}
    (advised / "generation_config.json").write_text(json.dumps(config))
    main(["generate", str(advised), "-p", "a", *FEW])
    assert "temperature 0.6 · top_p 0.95" in capsys.readouterr().err
    main(["generate", str(advised), "-p", "a", "--temperature", "0", *FEW])
    assert "answers greedy" in capsys.readouterr().err


def test_an_engine_that_is_not_there_is_refused(tiny_model, capsys):
    assert main(["generate", str(tiny_model), "-p", "hi", "--engine", "remote"]) == 2
    assert "G150" in capsys.readouterr().err


def test_an_answer_beyond_the_context(tiny_model, capsys):
    """Which a file that goes on must have been begun with, too."""
    import json

    words = ["-p", "hi", "--max-tokens", "150", "--window", "40", "--json"]
    assert main(["generate", str(tiny_model), *words]) == 0
    told = capsys.readouterr()
    assert "the first 4 and the last 40 tokens" in told.err
    assert json.loads(told.out)["answer_tokens"] > 0
    assert main(["generate", str(tiny_model), "-p", "hi", "--sinks", "2"]) == 2
    assert "G160" in capsys.readouterr().err


def test_thoughts_stand_apart():
    from tunesmith.cli.generate import Question, _line
    from tunesmith.generation.thinking import ThinkingSplit
    from tunesmith.types import Event, Message

    question = Question("q", (Message.of("user", "q"),))
    events = [Event("a", 1, 0.0, "<think>hm</th", None), Event("a", 2, 0.0, "ink>\n\nyes", "stop")]
    line = _line(question, events, ThinkingSplit())
    assert (line["reasoning_content"], line["answer"]) == ("hm", "yes")
    plain = _line(question, [Event("a", 1, 0.0, "yes", "stop")], ThinkingSplit())
    assert "reasoning_content" not in plain

"""`data check|convert|split|mix|dedup` on the command line: results, exit codes, refusals."""

from __future__ import annotations

import json

import pytest

from tests.rows import write
from tunesmith.cli.main import main
from tunesmith.data import read

ROWS = [{"instruction": f"Say {i}.", "output": f"It is {i}!"} for i in range(12)]


@pytest.fixture
def chats(tmp_path):
    return write(tmp_path / "chats.jsonl", ROWS)


def answer(capsys, *words):
    code = main(["data", *words, "--json"])
    return code, json.loads(capsys.readouterr().out or "null")


def test_check_of_good_data(chats, capsys):
    code, found = answer(capsys, "check", chats)
    assert (code, found["worst"], found["repair"]) == (0, "OK", None)
    names = {one["check"] for one in found["findings"]}
    assert {"rows", "end of answers", "BOS", "length bias", "encoding", "mojibake"} <= names
    assert main(["data", "check", chats]) == 0
    assert "OK     all 12 rows can be trained on" in capsys.readouterr().out


def test_a_major_finding_is_exit_code_6(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", ROWS[:2] * 12)
    code, found = answer(capsys, "check", path)
    assert (code, found["worst"]) == (6, "MAJOR")
    assert main(["data", "check", path]) == 6
    err = capsys.readouterr().err
    assert "error[G110]: MAJOR: 22 of 24 rows equal an earlier one" in err
    assert "tunesmith data dedup FILE -o FEWER; or data.on_finding=warn" in err
    assert "--fix" not in err  # which would not mend it


def test_check_of_a_recipe_looks_at_evaluation_too(tmp_path, chats, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: builtin:tiny\nstage: sft\ndata: {{train: {chats}, eval: {chats}}}\n")
    code, found = answer(capsys, "check", str(recipe))
    assert code == 6
    major = [one["check"] for one in found["findings"] if one["level"] == "MAJOR"]
    assert major == ["evaluation"]


def test_pairs_are_checked_for_equal_sides_and_length(tmp_path, capsys):
    pairs = [
        {"prompt": f"{i}?", "chosen": "a long answer, " * 3, "rejected": "no"} for i in range(30)
    ]
    code, found = answer(capsys, "check", write(tmp_path / "p.jsonl", pairs))
    levels = {one["check"]: one["level"] for one in found["findings"]}
    assert (code, levels["length bias"], levels["pairs"]) == (0, "MINOR", "OK")
    pairs[3]["rejected"] = pairs[3]["chosen"]
    code, _ = answer(capsys, "check", write(tmp_path / "p.jsonl", pairs))
    assert code == 6


def test_repair(tmp_path, capsys):
    damaged = tmp_path / "damaged.jsonl"
    text = "\r\n".join(json.dumps(row) for row in ROWS).replace('!"}', '!",}', 1)
    damaged.write_bytes(b"\xef\xbb\xbf" + text.encode() + b'\r\n{"instruction": "cut')
    assert main(["data", "check", str(damaged)]) == 6
    capsys.readouterr()
    out = tmp_path / "mended.jsonl"
    code, found = answer(capsys, "check", str(damaged), "--fix", "-o", str(out))
    assert (code, found["worst"]) == (0, "OK")
    repair = found["repair"]
    assert (repair["written"], repair["rejected"]) == (12, 1)
    assert set(repair["repairs"]) == {"BOM removed", "CRLF → LF", "trailing commas removed"}
    assert [json.loads(line) for line in out.read_text("utf-8").splitlines()] == ROWS
    assert main(["data", "check", str(damaged), "--fix", "-o", str(out), "--yes"]) == 0
    err = capsys.readouterr().err
    assert "12 × CRLF → LF" in err
    assert "1 rows can't be mended" in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check", "F", "--fix"], "C202"),
        (["check", "F", "-o", "x.jsonl"], "C202"),
        (["convert", "F", "-o", "F"], "C212"),
        (["convert", "F", "-o", "F", "--yes"], "C212"),
        (["convert", "F", "-o", "D/x.jsonl", "--to", "opena"], "C110"),
        (["convert", "F", "-o", "D/x.doc"], "D104"),
        (["convert", "F", "-o", "D/x.jsonl", "--columns", "prompt"], "C202"),
        (["convert", "F", "-o", "D/x.jsonl", "--to", "text"], "D128"),
        (["mix", "F", "F", "-o", "D/x.jsonl", "--interleave-probs", "a,b"], "C202"),
        (["mix", "F", "F", "-o", "D/x.jsonl", "--interleave-probs", "1"], "D210"),
        (["split", "F", "-o", "D", "--eval", "12"], "D208"),
        (["split", "F", "-o", "D", "--eval", "0"], "C202"),
        (["split", "F", "-o", "D", "--eval", "1.5"], "C202"),
        (["dedup", "none.jsonl", "-o", "D/x.jsonl"], "D101"),
    ],
)
def test_refusals(chats, tmp_path, capsys, words, code):
    swaps = {"F": chats}
    words = [swaps.get(word, word.replace("D/", f"{tmp_path}/")) for word in words]
    words = [str(tmp_path) if word == "D" else word for word in words]
    assert main(["data", *words]) in (2, 3)
    assert f"error[{code}]" in capsys.readouterr().err


def test_convert(chats, tmp_path, capsys):
    out = str(tmp_path / "o.jsonl")
    code, found = answer(capsys, "convert", chats, "-o", out, "--to", "sharegpt")
    assert (code, found["format"], found["to"], found["written"]) == (0, "alpaca", "sharegpt", 12)
    table = str(tmp_path / "t.csv")
    assert main(["data", "convert", out, "-o", table, "--to", "prompt_completion"]) == 0
    back = str(tmp_path / "b.jsonl")
    assert main(["data", "convert", table, "-o", back, "--to", "alpaca"]) == 0
    capsys.readouterr()
    rows = [row.value for row in read.rows(back)]
    assert [(row["instruction"], row["output"]) for row in rows] == [
        (row["instruction"], row["output"]) for row in ROWS
    ]


def test_losses_are_asked_for_counted_and_told(tmp_path, capsys):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "assistant", "content": "One."},
    ]
    chat = write(tmp_path / "tools.jsonl", [{"messages": turns, "tools": [{"name": "f"}]}] * 2)
    words = ["data", "convert", chat, "-o", str(tmp_path / "o.jsonl"), "--to", "sharegpt"]
    assert main(words) == 3
    err = capsys.readouterr().err
    assert "error[D128]: the format has no place for ids of tool calls" in err
    assert "--lossy" in err
    assert main([*words, "--lossy"]) == 0
    assert "lost: ids of tool calls in 2 rows" in capsys.readouterr().out
    assert json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])["conversations"][1:3] == [
        {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
        {"from": "observation", "value": "1"},
    ]


def test_errors_name_what_was_written_on_the_command_line(chats, tmp_path, capsys):
    out = str(tmp_path / "o")
    assert main(["data", "split", chats, "-o", out, "--eval", "12"]) == 3
    err = capsys.readouterr().err
    assert "--eval asks for 12 of 12 rows" in err
    assert "data.eval" not in err
    assert main(["data", "mix", chats, chats, "-o", f"{out}.jsonl", "--interleave-probs", "1"]) == 3
    err = capsys.readouterr().err
    assert "--interleave-probs 0.5,0.5" in err
    assert "data." not in err
    words = ["data", "mix", chats, chats, "-o", f"{out}.jsonl", "--interleave-probs", "1,3"]
    assert main(words) == 3
    assert "the same shares as 0.25,0.75" in capsys.readouterr().err


def test_columns_that_are_not_known_are_said_or_the_file_is_converted_first(tmp_path, capsys):
    odd = write(tmp_path / "odd.jsonl", [{"question": f"{n}?", "std_answer": "!"} for n in (1, 2)])
    assert main(["data", "mix", odd, odd, "-o", str(tmp_path / "m.jsonl")]) == 3
    assert f"tunesmith data convert {odd} -o NEW.jsonl --to" in capsys.readouterr().err
    words = ["data", "split", odd, "-o", str(tmp_path / "s"), "--eval", "1"]
    assert main(words) == 3
    fix = "--columns prompt=question,completion=std_answer"
    assert fix in capsys.readouterr().err
    assert main([*words, *fix.split()]) == 0
    assert "std_answer" in (tmp_path / "s" / "train.jsonl").read_text()


def test_names_of_data_sets_are_files_too(chats, tmp_path, capsys):
    info = {"mine": {"file_name": "chats.jsonl"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    name, out = str(tmp_path / "mine"), str(tmp_path / "o.jsonl")
    code, found = answer(capsys, "convert", name, "-o", out, "--to", "ultrachat")
    assert (code, found["written"]) == (0, 12)
    code, found = answer(capsys, "dedup", name, "-o", out, "--yes")
    assert (code, found["written"]) == (0, 12)
    code, found = answer(capsys, "mix", name, chats, "-o", out, "--yes")
    assert (code, found["written"]) == (0, 24)
    code, found = answer(capsys, "split", name, "-o", str(tmp_path / "parts"))
    assert (code, found["train_file"]) == (0, str(tmp_path / "parts" / "train.jsonl"))
    assert main(["data", "convert", "belle_1n", "-o", out, "--yes"]) == 3
    assert "belle_1m" in capsys.readouterr().err
    # What would be written over is the file that the name means.
    assert main(["data", "dedup", name, "-o", chats, "--yes"]) == 2


def test_columns_are_mapped(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [{"frage": "q", "antwort": "a"}])
    words = ["--format", "prompt_completion", "--columns", "prompt=frage,completion=antwort"]
    out = tmp_path / "o.jsonl"
    assert answer(capsys, "convert", path, "-o", str(out), *words, "--to", "alpaca")[0] == 0
    assert json.loads(out.read_text()) == {"instruction": "q", "input": "", "output": "a"}


def test_split_mix_and_dedup(chats, tmp_path, capsys):
    parts = tmp_path / "parts"
    code, found = answer(capsys, "split", chats, "-o", str(parts), "--eval", "3", "--seed", "7")
    assert (code, found["train"], found["eval"]) == (0, 9, 3)
    whole = str(tmp_path / "whole.jsonl")
    files = [str(parts / "train.jsonl"), str(parts / "eval.jsonl")]
    code, found = answer(capsys, "mix", *files, "-o", whole)
    assert (code, found["written"], found["to"]) == (0, 12, "alpaca")
    twice = str(tmp_path / "twice.jsonl")
    code, found = answer(capsys, "mix", *files, "-o", twice, "--mix-strategy", "interleave_over")
    assert found["written"] == 18
    code, found = answer(capsys, "dedup", twice, "-o", str(tmp_path / "d.jsonl"))
    assert (code, found["written"], found["equal"]) == (0, 12, 6)
    assert (
        main(["data", "mix", *files, "-o", twice, "--interleave-probs", "0.75,0.25", "--yes"]) == 0
    )
    captured = capsys.readouterr()
    assert "interleave_under, since probabilities were given" in captured.err
    assert "of 9 rows" in captured.out


def test_split_counts_rows_and_keeps_equal_ones_together(tmp_path, capsys):
    row = lambda n: {"instruction": f"q{n}", "output": f"a{n}"}
    rows = [row(0)] * 50 + [row(n) for n in range(1, 51)]
    name = write(tmp_path / "rows.jsonl", rows)
    words = ["split", name, "-o", str(tmp_path / "p"), "--yes"]
    for seed in ("1", "2", "3"):
        found = answer(capsys, *words, "--eval", "20", "--seed", seed)[1]
        assert (found["train"], found["eval"], found["copies"]) == (80, 20, 49)
    assert answer(capsys, *words, "--eval", "0.2")[1]["eval"] == 20
    twice = write(tmp_path / "twice.jsonl", [row(n // 2) for n in range(12)])
    assert main(["data", "split", twice, "-o", str(tmp_path / "t"), "--eval", "3"]) == 0
    said = capsys.readouterr().out
    assert "3 rows were asked for evaluation; 2 is the nearest number" in said
    same = write(tmp_path / "same.jsonl", [row(0)] * 4)
    assert main(["data", "split", same, "-o", str(tmp_path / "s"), "--eval", "1"]) == 3
    assert "D208" in capsys.readouterr().err


def test_what_can_only_be_read_is_split_into_json_lines(tmp_path, capsys):
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"text": [f"line {i}" for i in range(10)]})
    with arrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as stream:
        stream.write_table(table)
    code, found = answer(capsys, "split", str(tmp_path / "a.arrow"), "-o", str(tmp_path / "p"))
    assert (code, found["train"], found["eval"]) == (0, 9, 1)
    assert found["train_file"].endswith("train.jsonl")


def test_columns_of_another_language_are_named_in_the_advice(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("Frage;Antwort;Quelle\nWas?;Das.;hier\nWer?;Ich.;dort\n")
    assert main(["data", "inspect", str(path)]) == 3
    err = capsys.readouterr().err
    assert "--columns prompt=Frage,completion=Antwort" in err
    assert main(["data", "check", str(path), "--columns", "prompt=Frage,completion=Antwort"]) == 0


def test_what_the_gate_says_helps(tmp_path, capsys):
    rows = [{"prompt": f"a{i}", "completion": None if i % 5 == 0 else "b"} for i in range(25)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "check", str(path)]) == 6
    err = capsys.readouterr().err
    assert "fix: mend these rows, or data.on_bad_row=skip to go on without them" in err
    assert "on_finding" not in err  # which would leave the training stopped
    assert main(["data", "check", str(path), "data.on_bad_row=skip"]) == 0

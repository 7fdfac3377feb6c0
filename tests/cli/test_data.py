"""`tunesmith data inspect`, on files and recipes, offline and without weights."""

from __future__ import annotations

import json

import pytest

from tunesmith.cli.main import main

ROWS = [
    {"instruction": "Say hi.", "output": "Hi!"},
    {"instruction": "Say hi.", "output": "Hi!"},
    {"instruction": "Count", "input": "to 3", "output": "1 2 3"},
    {"instruction": "Nothing", "output": ""},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_json(file, capsys):
    assert main(["data", "inspect", str(file), "--rows", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = found["summary"]
    assert summary["sources"][0]["format"] == "alpaca"
    assert (summary["rows"], summary["items"], summary["left_out"]) == (4, 3, 1)
    assert summary["roles"] == {"user": 3, "assistant": 3}
    assert summary["problems"][0]["line"] == 4
    assert {one["check"]: one["level"] for one in summary["findings"]}["duplicates"] == "MINOR"
    assert len(found["rows"]) == 2
    row = found["rows"][0]
    assert len(row["ids"]) == len(row["weights"])
    assert "Say hi." in row["text"]
    trained = "".join(span["text"] for span in row["spans"] if span["weight"])
    assert trained.startswith("Hi!")
    assert len(trained) > 3  # and its end marker
    assert row["weights"][0] == 0


def test_text(file, capsys):
    assert main(["data", "inspect", str(file), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert "alpaca · 4 rows" in out
    assert "chats.jsonl:4  `output` is empty" in out
    assert "[[Hi!" in out
    assert "MAJOR  1 of 4 rows can't be used" in out


def test_recipe_with_changes_and_html(file, tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: builtin:tiny\nstage: sft\ndata: {{train: {file}}}\n")
    page = tmp_path / "page.html"
    words = [str(recipe), "data.max_length=64", "--html", str(page), "--rows", "1"]
    assert main(["data", "inspect", *words]) == 0
    assert "<mark>Hi!" in page.read_text(encoding="utf-8")
    capsys.readouterr()


def test_text_and_pairs_are_shown_too(tmp_path, capsys):
    text = tmp_path / "a.txt"
    text.write_text("Once upon a time.\n")
    assert main(["data", "inspect", str(text), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["roles"] == {"document": 1}
    pairs = tmp_path / "p.jsonl"
    rows = [{"prompt": "a?", "chosen": "b.", "rejected": other} for other in ("b.", "c.")]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "inspect", str(pairs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(found["rows"]), found["summary"]["items"]] == [2, 1]
    assert [row["side"] for row in found["rows"]] == ["chosen", "rejected"]
    levels = {one["check"]: one["level"] for one in found["summary"]["findings"]}
    assert levels["rows"] == "MAJOR"
    (problem,) = found["summary"]["problems"]
    assert problem["reason"] == "chosen and rejected are the same"
    pairs.write_text(json.dumps(rows[0]) + "\n")  # nothing to go on with
    assert main(["data", "inspect", str(pairs)]) == 3
    assert "fix: mend the rows\n" in capsys.readouterr().err


def test_verdicts_are_shown_as_kto_trains_them(tmp_path, capsys):
    path = tmp_path / "k.jsonl"
    rows = [{"prompt": f"{i}?", "completion": f"{i}.", "label": i == 1} for i in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["side"].split()[-1] for row in found["rows"]] == ["answer", "point"] * 2
    assert main(["data", "tokenize", str(path), "-o", str(tmp_path / "tokens")]) == 0
    assert main(["data", "inspect", str(tmp_path / "tokens"), "--rows", "0"]) == 0


def test_what_can_not_be_inspected(tmp_path, capsys):
    assert main(["data", "inspect", str(tmp_path / "missing.jsonl")]) == 3
    assert "error[D101]" in capsys.readouterr().err
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"x": 1}\n')
    assert main(["data", "inspect", str(odd)]) == 3
    assert "columns found: x" in capsys.readouterr().err


def test_format_and_columns_of_a_file_are_said_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "h.jsonl"
    row = {"question": "Why?", "human_answers": ["So."], "chatgpt_answers": ["As an AI."]}
    path.write_text(json.dumps(row) + "\n")
    assert main(["data", "inspect", str(path)]) == 3
    assert "hc3_chatgpt, hc3_human" in capsys.readouterr().err
    assert main(["data", "inspect", str(path), "--format", "hc3_human"]) == 0
    assert "So." in capsys.readouterr().out
    # The stage that is named decides how the rows are read.
    assert main(["data", "check", str(path), "stage=dpo"]) == 0
    assert "hc3_pairs (detected)" in capsys.readouterr().err
    path.write_text(json.dumps({"frage": "Why?", "da": "So."}) + "\n")
    mapped = ["--columns", "prompt=frage,completion=da"]
    assert main(["data", "inspect", str(path), *mapped]) == 0
    assert "So." in capsys.readouterr().out
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: builtin:tiny\ndata: {{train: {path}}}\n")
    assert main(["data", "check", str(recipe), *mapped]) == 2
    assert "error[C202]" in capsys.readouterr().err


def minified(tmp_path, bad=8):
    """An array on one line with good rows and bad ones."""
    rows = [{"instruction": f"{i}?", "output": f"{i}." if i % 2 else ""} for i in range(2 * bad)]
    path = tmp_path / "min.json"
    path.write_text(json.dumps(rows))
    return path


def test_rows_of_an_array_on_one_line_are_numbered_and_all_are_listed_when_asked(tmp_path, capsys):
    path = minified(tmp_path)
    assert main(["data", "inspect", str(path), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert "left out  min.json:1 (row 1)  `output` is empty" in out
    assert "left out  … 3 more (--all lists them)" in out
    assert "min.json:1 (row 2)  " in out  # the row that is shown
    assert main(["data", "inspect", str(path), "--all"]) == 0
    assert "left out  min.json:1 (row 15)" in capsys.readouterr().out
    assert main(["data", "check", str(path), "--all"]) == 6
    out = capsys.readouterr().out
    assert "left out  min.json:1 (row 15)" in out
    assert main(["data", "check", str(path), "--json"]) == 6
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [(one["line"], one["row"]) for one in problems] == [(1, n) for n in range(1, 17, 2)]
    # Evaluation rows can be drawn: rows that share a line are not one row.
    assert main(["data", "inspect", str(path), "data.eval={count: 2}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["items"] == 6


def test_a_function_of_rows_is_looked_at_and_a_recipe_in_python_still_is(tmp_path, capsys):
    code = tmp_path / "mine.py"
    code.write_text(
        "def rows():\n    yield {'q': 'Why?', 'a': 'So.'}\n"
        "def listed():\n    return [{'frage': 'Why?', 'da': 'So.'}]\n"
        "def recipe():\n    import tunesmith\n    from tunesmith import recipe\n"
        "    return recipe.from_dict({'model': 'builtin:tiny', 'stage': 'sft',"
        f" 'data': {{'train': {str(tmp_path / 'a.jsonl')!r}}}}})\n"
        "def broken():\n    raise ValueError('no')\n"
    )
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": "And?", "a": "Then."}) + "\n")
    assert main(["data", "inspect", f"{code}:rows"]) == 0
    found = capsys.readouterr()
    assert "[[So." in found.out
    assert found.err.count("running your code") == 1
    assert main(["data", "check", f"{code}:rows"]) == 0
    assert main(["data", "tokenize", f"{code}:rows", "-o", str(tmp_path / "tokens")]) == 0
    words = ["--columns", "prompt=frage,completion=da"]
    assert main(["data", "inspect", f"{code}:listed", *words]) == 0
    assert main(["data", "tokenize", f"{code}:listed", "-o", str(tmp_path / "t2"), *words]) == 0
    assert "[[So." in capsys.readouterr().out
    assert main(["data", "inspect", f"{code}:recipe"]) == 0
    assert "Then." in capsys.readouterr().out
    assert main(["data", "inspect", f"{code}:broken"]) == 2
    assert "error[C113]" in capsys.readouterr().err


def test_what_is_cut_is_shown_and_major_unless_it_is_asked_for(tmp_path, capsys):
    path = tmp_path / "long.jsonl"
    row = {"instruction": "Tell it all.", "output": "The miller ground his rye. " * 40}
    path.write_text(json.dumps(row) + "\n")
    short = "data.max_length=64"
    assert main(["data", "check", str(path), short]) == 6
    out = capsys.readouterr().out
    assert "MAJOR" in out
    assert "1 of 1 rows (100%) lost trained tokens: raise data.max_length" in out
    assert main(["data", "check", str(path), short, "data.on_overlength=truncate"]) == 0
    assert "MINOR" in capsys.readouterr().out
    assert main(["data", "inspect", str(path), short]) == 0
    out = capsys.readouterr().out
    assert "  64 of " in out
    assert "…" in out.split("checks")[1]
    assert "… stands where tokens were cut" in out


def test_a_length_is_no_longer_than_the_context_of_the_model(tmp_path, capsys, small_context):
    path = tmp_path / "long.jsonl"
    row = {"instruction": "Tell it all.", "output": "The miller ground his rye. " * 400}
    path.write_text(json.dumps(row) + "\n")
    assert main(["data", "inspect", str(path), "--model", str(small_context), "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["summary"]["lengths"]["max"] == 48
    assert "data.max_length 1024 → 48, the model's context" in found.err


@pytest.fixture
def small_context(tmp_path):
    """The embedded model's folder with a context of 48 tokens."""
    import shutil
    from importlib.resources import files

    folder = tmp_path / "model"
    shutil.copytree(str(files("tunesmith") / "assets" / "tiny"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 48}))
    return folder


def test_names_that_are_nearly_right_are_suggested(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"promt": "a?", "completion": "b."}) + "\n")
    assert main(["data", "inspect", str(path)]) == 3
    assert "`promt`: did you mean `prompt`?" in capsys.readouterr().err
    path.write_text(json.dumps({"question": "a?", "std_answer": "b."}) + "\n")
    assert main(["data", "inspect", str(path)]) == 3
    said = "--columns prompt=question,completion=std_answer"
    assert said in capsys.readouterr().err


def test_only_lines_of_text_files_are_said_to_be_documents(tmp_path, capsys):
    text, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("Once.\n")
    rows.write_text(json.dumps({"text": "Once."}) + "\n")
    assert main(["data", "inspect", str(text)]) == 0
    assert "each line is a document" in capsys.readouterr().err
    assert main(["data", "inspect", str(rows)]) == 0
    assert "each line" not in capsys.readouterr().err


def test_a_second_file_is_no_override(file, capsys):
    for verb in ("inspect", "check"):
        assert main(["data", verb, str(file), "other.jsonl"]) == 2
        found = capsys.readouterr().err
        assert "error[C220]" in found
        assert "tunesmith data mix" in found


def test_answers_of_kto_are_trained_or_measured(tmp_path, capsys):
    rows = [
        {"prompt": "Two and two?", "completion": "Four.", "label": True},
        {"prompt": "The capital of France?", "completion": "Berlin, of course.", "label": False},
    ]
    path = tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["data", "inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    good, _, bad, other = found["rows"]
    weighed = [sum(weight != 0 for weight in row["weights"]) for row in (good, bad)]
    assert min(bad["weights"]) == -1
    summary = found["summary"]
    assert summary["trained_tokens"] == summary["measured_tokens"] == sum(weighed)
    assert other["measured"]
    assert not any(span["weight"] for span in other["spans"])
    assert main(["data", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{len(good['ids'])} tokens, {weighed[0]} trained\n" in out
    assert f"{weighed[1]} trained as undesirable" in out
    assert (
        f"reference point  {len(other['ids'])} tokens, {weighed[0]} measured, none trained" in out
    )
    assert "% measured only, for KTO's reference point" in out
    assert out.count("[[") == 2  # what is measured is not marked as trained


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "word " * 90, "completion": "yes"},
        {"prompt": "word " * 90, "completion": "yes", "label": True},
        {"prompt": "word " * 90, "chosen": "yes", "rejected": "no"},
    ],
)
def test_what_is_left_out_names_the_limit_that_bites(row, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    kept = [{**row, "prompt": short} for short in ("a", "b")]
    path.write_text("".join(json.dumps(one) + "\n" for one in [row, *kept]), encoding="utf-8")
    limits = ["data.max_length=120", "data.max_prompt_length=14"]
    assert main(["data", "inspect", str(path), *limits]) == 0
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.startswith("left out")]
    assert "tokens in a prompt, but data.max_prompt_length is 14" in line


HISTORY = """{% for m in messages %}{% if m.role == "assistant" %}\
{% if loop.last %}<ANSWER>{% endif %}{{ m.content }}<|im_end|>{% else %}\
U: {{ m.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}<ANSWER>{% endif %}"""


@pytest.mark.parametrize("verb", ["inspect", "check"])
def test_notes_of_the_template_are_told_as_a_training_tells_them(verb, file, tmp_path, capsys):
    words = ["data", verb, str(file), "data.max_length=256"]
    main([*words, "data.template=baichuan"])
    said = capsys.readouterr().err
    assert "note    `<reserved_103>` is no token of this model: it is written as plain text" in said
    main([*words, "data.template=vanilla"])
    assert "note    this template shows no history: one example per" in capsys.readouterr().err
    own = tmp_path / "own.jinja"
    own.write_text(HISTORY)
    main([*words, f"data.template={own}"])
    assert "note    this template rewrites history: one example per" in capsys.readouterr().err
    main(words)
    assert "note    " not in capsys.readouterr().err

"""Rows whose ids depend on whether prompt and answer are tokenised apart."""

from __future__ import annotations

import json

import pytest

from tunesmith import recipe
from tunesmith.compose import inspection

JINJA = (
    "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }} A{% else %}"
    "{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)


def findings(tmp_path, rows, **data):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"model": "builtin:tiny", "stage": "sft"}
    settings["data"] = {"train": str(path), "num_proc": 1, **data}
    found = inspection.check(recipe.from_dict(settings))["findings"]
    return [(one["level"], one["text"], one["where"]) for one in found if one["check"] == "borders"]


def row(question, answer):
    return {"prompt": question, "completion": answer}


@pytest.fixture
def joined(tmp_path):
    """A template with nothing between the prompt's last letter and the answer."""
    path = tmp_path / "joined.jinja"
    path.write_text(JINJA)
    return str(path)


def test_a_template_whose_markers_stand_between_has_no_such_row(tmp_path):
    ((level, text, _),) = findings(tmp_path, [row("hi", "nswer"), row("ho", "yes")])
    assert level == "OK"
    assert "(2 rows)" in text


def test_merges_over_the_border_are_counted(tmp_path, joined):
    rows = [row("hi", "nswer"), row("ho", "!"), row("hm", "nd so")]  # " Answer", " And" are tokens
    ((level, text, where),) = findings(tmp_path, rows, template=joined)
    assert level == "MINOR"
    assert "2 of 3 rows" in text
    assert "merges cross the border" in text
    assert [one.rpartition(":")[2] for one in where] == ["1", "3"]


def test_content_that_spells_a_token_is_counted_apart(tmp_path):
    rows = [row("hi", "yo"), row("what is <|im_end|>?", "a marker")]
    ((level, text, where),) = findings(tmp_path, rows)
    assert level == "MINOR"
    assert "1 of 2 rows" in text
    assert "spells tokens" in text
    assert where[0].endswith(":2")


def test_rows_that_are_left_out_and_sides_of_pairs(tmp_path, joined):
    rows = [{"prompt": "hi", "chosen": "yes", "rejected": "nswer"}, {"prompt": "hi", "chosen": 3}]
    rows.append({"prompt": "ho", "chosen": "yes", "rejected": "?"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    made = recipe.from_dict(
        {"model": "builtin:tiny", "stage": "dpo", "data": {"train": str(path), "template": joined}}
    )
    (found,) = [one for one in inspection.check(made)["findings"] if one["check"] == "borders"]
    assert "1 of 2 rows" in found["text"]


def test_documents_have_no_borders(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Once upon a time.\n")
    settings = {"model": "builtin:tiny", "stage": "pretrain", "data": {"train": str(path)}}
    found = inspection.check(recipe.from_dict(settings))["findings"]
    assert "borders" not in {one["check"] for one in found}


def test_answers_that_hold_a_stop_string(tmp_path):
    rows = [row("hi", "yo"), row("write a dialogue", "Sure.\nHuman: hi\nAssistant: yo")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    settings = {"model": "builtin:tiny", "stage": "sft"}
    for template, expected in (("default", 1), ("vicuna", 0), ("auto", 0)):
        settings["data"] = {"train": str(path), "template": template}
        found = inspection.check(recipe.from_dict(settings))["findings"]
        cut = [one for one in found if one["check"] == "stop strings"]
        assert len(cut) == expected
        assert all("1 of 2 rows" in one["text"] for one in cut)

"""Each finding: silent on good data, loud on data that has the fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tunesmith.data import check, facts, prints, store
from tunesmith.types import Example

REPORT = {"bad_rows": 0, "rows": 9, "reasons": {}, "skipped": [], "truncated": 0}
REPORT |= {"left_out": 0, "refused": 0}
MARKERS = check.Markers(frozenset({2}), bos_id=1)


def example(ids, trained):
    weights = np.zeros(len(ids), np.float32)
    weights[-trained:] = 1
    return Example(np.array(ids, np.int32), weights)


GOOD = [example([1, 10 + i, 20, 2], 2) for i in range(9)]


def data_of(tmp_path, examples, name="a", **report):
    path = tmp_path / name
    groups = [one if isinstance(one, tuple) else (one,) for one in examples]
    items = [e if isinstance(e[0], Example) else (Example(*e),) for e in groups]
    store.write_shard(path, [store.Item(item, 0, i + 1) for i, item in enumerate(items)])
    tokens = sum(len(e.ids_T) for item in items for e in item)
    return store.open_dataset([path], ["f"], {**REPORT, "tokens": tokens, "unknown": 0, **report})


def found(data, name, evaluation=None):
    findings = check.check(data, MARKERS, evaluation)
    return next(one for one in findings if one.check == name)


def test_good_data_is_ok(tmp_path):
    data = data_of(tmp_path, GOOD)
    other = data_of(tmp_path, [example([1, 99, 20, 2], 2)], "b")
    levels = {one.check: one.level for one in check.check(data, MARKERS, other)}
    assert set(levels.values()) == {"OK"}
    assert len(levels) == 13


def test_one_empty_answer_in_hundreds_is_a_slip(tmp_path):
    many = [example([1, 10 + i, 20, 2], 2) for i in range(150)]
    hollow = example([1, 5, 6, 2], 1)  # the end marker alone
    assert found(data_of(tmp_path, [*many, hollow], "b"), "empty answers").level == "MINOR"
    assert found(data_of(tmp_path, [*GOOD, hollow], "c"), "empty answers").level == "MAJOR"


def test_what_was_not_looked_at_is_said(tmp_path, monkeypatch):
    data = data_of(tmp_path, GOOD)
    assert "looked at" not in {one.check for one in check.check(data, MARKERS)}
    monkeypatch.setattr(prints, "COMPARED", 4)
    one = found(data, "looked at")
    assert (one.level, one.text) == (
        "MINOR",
        "of 9 rows only the first 4 were compared with each other",
    )
    original = facts.facts
    monkeypatch.setattr(facts, "facts", lambda *rest: original(*rest, limit=-1))
    assert "the first 0 were looked at for end markers" in found(data, "looked at").text


def test_rows_left_out(tmp_path):
    skipped = [{"file": "f", "line": 4, "code": "D204", "reason": "no assistant turn"}]
    data = data_of(
        tmp_path, GOOD, bad_rows=1, rows=10, reasons={"no assistant turn": 1}, skipped=skipped
    )
    one = found(data, "rows")
    assert (one.level, one.where) == ("MAJOR", ("f:4",))
    assert "1 of 10 rows can't be used: 1 × no assistant turn" in one.text


def test_rows_that_hold_nothing_for_the_format_are_no_fault(tmp_path):
    reasons = {"the row holds nothing that oasst_pairs can use": 8}
    data = data_of(tmp_path, GOOD[:1], left_out=8, rows=9, reasons=reasons)
    assert found(data, "rows").level == "MINOR"
    data = data_of(tmp_path, GOOD[:1], left_out=8, bad_rows=1, rows=10, reasons=reasons)
    assert found(data, "rows").level == "MAJOR"


def test_an_answer_and_a_mismatch_are_no_pair(tmp_path):
    data = data_of(tmp_path, [(one, one) for one in GOOD])
    assert found(data, "pairs").level == "MAJOR"
    names = {one.check for one in check.check(data, replace(MARKERS, measured=(1,)))}
    assert not names & {"pairs", "length bias"}


def test_end_marker_is_not_trained(tmp_path):
    cut = example([1, 10, 20, 21], 2)
    untrained = Example(np.array([1, 10, 20, 2], np.int32), np.array([0, 0, 1, 0], np.float32))
    one = found(data_of(tmp_path, [*GOOD, cut, untrained]), "end of answers")
    assert (one.level, one.where) == ("MINOR", ("f:10", "f:11"))
    assert found(data_of(tmp_path, [cut] * 3), "end of answers").level == "MAJOR"


def test_answers_that_are_a_mere_end_marker(tmp_path):
    weights = np.array([0, 0, 1, 0, 1, 1], np.float32)
    hollow = Example(np.array([1, 10, 2, 11, 20, 2], np.int32), weights)
    one = found(data_of(tmp_path, [*GOOD, hollow]), "empty answers")
    assert (one.level, one.where) == ("MAJOR", ("f:10",))
    last = example([1, 10, 11, 2], 1)
    assert found(data_of(tmp_path, [*GOOD, last]), "empty answers").level == "MAJOR"


def test_double_bos(tmp_path):
    one = found(data_of(tmp_path, [*GOOD, example([1, 1, 10, 2], 2)]), "BOS")
    assert (one.level, one.where) == ("MAJOR", ("f:10",))


@pytest.mark.parametrize(("cut", "level"), [(1, "MINOR"), (20, "MAJOR")])
def test_truncation(tmp_path, cut, level):
    assert found(data_of(tmp_path, GOOD, truncated=cut), "truncation").level == level


def test_cut_answers_weigh_by_rows_and_not_where_cutting_is_chosen(tmp_path):
    few = found(data_of(tmp_path, GOOD, truncated=1), "truncation")
    assert few.level == "MINOR"
    cut = data_of(tmp_path, GOOD, truncated=1, cut_answers=2)  # of 9 rows
    one = found(cut, "truncation")
    assert one.level == "MAJOR"
    assert "2 of 9 rows (22%) lost trained tokens: raise data.max_length" in one.text
    chosen = replace(MARKERS, cutting=True, max_length=64)
    (one,) = [f for f in check.check(cut, chosen) if f.check == "truncation"]
    assert one.level == "MINOR"
    assert one.text.endswith("cut to max_length 64; 2 of 9 rows (22%) lost trained tokens")


@pytest.mark.parametrize("cut", [1, 3, 4, 20, 40])
def test_what_is_cut_is_judged_alike_before_a_training(tmp_path, cut):
    data = data_of(tmp_path, GOOD, truncated=cut)  # of 36 tokens
    for markers in (MARKERS, replace(MARKERS, cutting=True)):
        both = [check.check(data, replace(markers, skipping=skip)) for skip in (False, True)]
        one, other = (next(f for f in found if f.check == "truncation") for found in both)
        assert one == other
    assert one.level == "MINOR"


def test_documents_have_no_answers_and_repeat_short_lines(tmp_path):
    hollow = example([1, 10, 11, 2], 1)
    data, other = data_of(tmp_path, [*GOOD, hollow]), data_of(tmp_path, GOOD[3:5], "b")
    markers = check.Markers(frozenset({2}), 1, documents=True)
    by_name = {one.check: one.level for one in check.check(data, markers, other)}
    assert (by_name["empty answers"], by_name["evaluation"]) == ("OK", "MINOR")


@pytest.mark.parametrize(("unknown", "level"), [(0, "OK"), (1, "MINOR"), (5, "MAJOR")])
def test_unknown_tokens(tmp_path, unknown, level):
    data = data_of(tmp_path, GOOD, unknown=unknown, tokens=400)
    assert found(data, "unknown tokens").level == level


def test_duplicates(tmp_path):
    assert found(data_of(tmp_path, [*GOOD, GOOD[0]]), "duplicates").level == "MINOR"
    one = found(data_of(tmp_path, [*GOOD, *GOOD, *GOOD]), "duplicates")
    assert one.level == "MAJOR"
    assert one.text.startswith("18 of 27 rows equal an earlier one")
    assert one.where[0] == "f:10"
    # Copies among a few rows or among the lines of a text are no reason to stop.
    lines = replace(MARKERS, documents=True)
    for rows, markers, level in ((9, MARKERS, "MAJOR"), (2, MARKERS, "MINOR"), (9, lines, "MINOR")):
        data = data_of(tmp_path, GOOD[:rows] * 3, "c")
        findings = check.check(data, markers)
        assert [one.level for one in findings if one.check == "duplicates"] == [level]
    # The same tokens with other weights are another example.
    other = Example(GOOD[0].ids_T, np.array([0, 1, 1, 1], np.float32))
    assert found(data_of(tmp_path, [GOOD[0], other]), "duplicates").level == "OK"


def test_overlap_of_training_and_evaluation(tmp_path):
    data, other = data_of(tmp_path, GOOD), data_of(tmp_path, GOOD[3:5], "b")
    one = found(data, "evaluation", other)
    assert (one.level, one.text) == ("MAJOR", "2 of 2 evaluation rows are trained on")


def test_a_little_overlap_is_no_reason_to_stop(tmp_path):
    others = [example([1, 60 + i, 20, 2], 2) for i in range(19)]
    data, other = data_of(tmp_path, GOOD), data_of(tmp_path, [GOOD[3], *others], "b")
    assert found(data, "evaluation", other).level == "MINOR"


def test_rows_the_user_chose_to_leave_out_are_no_reason_to_stop(tmp_path):
    chosen = replace(MARKERS, skipping=True)
    data = data_of(tmp_path, GOOD, bad_rows=1, rows=10, reasons={"x": 1})
    assert check.check(data, MARKERS)[0].level == "MAJOR"
    assert check.check(data, chosen)[0].level == "MINOR"
    lost = data_of(tmp_path, GOOD, bad_rows=90, rows=99, reasons={"x": 90})
    assert check.check(lost, chosen)[0].level == "MAJOR"
    # What on_overlength leaves out is chosen too, whatever bad rows do.
    long = data_of(tmp_path, GOOD, left_out=1, rows=10, reasons={"longer than data.max_length": 1})
    assert check.check(long, MARKERS)[0].level == "MINOR"


@pytest.mark.parametrize(
    ("code", "reason", "fix"),
    [
        ("D105", "not JSON", "tunesmith data check FILE --fix"),
        ("D121", "column `x` is missing", "mend these rows, or data.on_bad_row=skip"),
        ("D204", "longer than data.max_length 8", "raise data.max_length"),
        ("D204", "the template has no place for tools", "data.on_bad_row=skip"),
    ],
)
def test_fix_is_named_only_where_it_mends(tmp_path, code, reason, fix):
    skipped = [{"file": "f", "line": 1, "code": code, "reason": reason}]
    data = data_of(tmp_path, GOOD, bad_rows=1, rows=10, reasons={reason: 1}, skipped=skipped)
    one = found(data, "rows")
    assert (one.level, fix in one.fix) == ("MAJOR", True)
    assert ("--fix" in one.fix) == (code == "D105")
    many = data_of(tmp_path, GOOD, bad_rows=1, rows=1, reasons={reason: 1}, skipped=skipped)
    assert ("--columns" in found(many, "rows").fix) == (code == "D121")


def test_every_major_finding_says_what_mends_it(tmp_path):
    mute = Example(np.array([1, 1, 3], np.int32), np.zeros(3, np.float32))
    hollow = example([1, 1, 2], 1)
    endless = example([1, 1, 20, 21], 2)
    rows = [mute, hollow, endless] * 12
    data = data_of(tmp_path, rows, truncated=900, unknown=90, bad_rows=1, rows=37)
    other = data_of(tmp_path, [endless], "b")
    major = [one for one in check.check(data, MARKERS, other) if one.level == "MAJOR"]
    names = {one.check for one in major}
    assert names >= {"rows", "trained tokens", "empty answers", "BOS", "truncation", "duplicates",
                     "unknown tokens", "evaluation"}  # fmt: skip
    assert all(one.fix for one in major)


def test_rows_without_a_trained_token(tmp_path):
    mute = Example(np.array([1, 2, 3], np.int32), np.zeros(3, np.float32))
    one = found(data_of(tmp_path, [*GOOD, mute]), "trained tokens")
    assert (one.level, one.where) == ("MINOR", ("f:10",))
    assert found(data_of(tmp_path, [mute, mute]), "trained tokens").level == "MAJOR"


def test_of_a_document_in_blocks_only_the_last_must_end_it(tmp_path):
    blocks = [example([1, 10, 11, 12], 3), example([12, 13, 2], 2)]
    path = tmp_path / "a"
    rows = [store.Item((one,), 0, line) for line in (1, 2) for one in blocks]
    store.write_shard(path, [*rows, store.Item((example([1, 5, 6], 2),), 0, 3)])
    data = store.open_dataset([path], ["f"], {**REPORT, "tokens": 17, "unknown": 0})
    markers = check.Markers(frozenset({2}), 1, documents=True)
    one = next(one for one in check.check(data, markers) if one.check == "end of documents")
    assert (one.level, one.where) == ("MINOR", ("f:3",))
    assert one.text == "1 of 3 documents don't end with a trained end marker"


def test_length_bias(tmp_path):
    longer = [(example([1, 5, 7, 7, 7, 2], 4), example([1, 5, 8 + i, 2], 2)) for i in range(30)]
    assert found(data_of(tmp_path, longer), "length bias").level == "MINOR"
    even = [pair if i % 2 else pair[::-1] for i, pair in enumerate(longer)]
    assert found(data_of(tmp_path, even), "length bias").level == "OK"
    assert found(data_of(tmp_path, longer[:5]), "length bias").level == "OK"


@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 9]), min_size=1, max_size=6), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_facts_are_those_of_a_loop_over_examples(tmp_path, rows):
    """The shard-wise search says what a plain loop says, for any ids and weights."""
    examples = []
    for ids in rows:
        weights = np.array([float(i % 3 != 1) for i in ids], np.float32)
        weights[0] = 0
        examples.append(Example(np.array(ids, np.int32), weights))
    data = data_of(tmp_path, examples)
    found = facts.facts(data, {2}, 1)
    for index, one in enumerate(examples):
        trained = np.flatnonzero(one.weights_T).tolist()
        ids = one.ids_T.tolist()
        assert found.endless_N[index] == bool(trained and ids[trained[-1]] != 2)
        alone = [t for t in trained if t - 1 not in trained and t + 1 not in trained]
        assert found.hollow_N[index] == any(ids[t] == 2 for t in alone)
        assert found.double_bos_N[index] == (ids[:2] == [1, 1])


def test_equal_sides_of_a_pair(tmp_path):
    data = data_of(tmp_path, [(GOOD[0], GOOD[1]), (GOOD[2], GOOD[2])])
    one = found(data, "pairs")
    assert (one.level, one.where) == ("MAJOR", ("f:2",))

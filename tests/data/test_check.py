"""Each finding: silent on good data, loud on data that has the fault."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.data import check, store
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
    assert len(levels) == 9


def test_rows_left_out(tmp_path):
    skipped = [{"file": "f", "line": 4, "code": "D204", "reason": "no assistant turn"}]
    data = data_of(
        tmp_path, GOOD, bad_rows=1, rows=10, reasons={"no assistant turn": 1}, skipped=skipped
    )
    one = found(data, "rows")
    assert (one.level, one.where) == ("MAJOR", ("f:4",))
    assert "1 of 10 rows can't be used: 1 × no assistant turn" in one.text


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


@pytest.mark.parametrize(("unknown", "level"), [(0, "OK"), (1, "MINOR"), (5, "MAJOR")])
def test_unknown_tokens(tmp_path, unknown, level):
    data = data_of(tmp_path, GOOD, unknown=unknown, tokens=400)
    assert found(data, "unknown tokens").level == level


def test_duplicates(tmp_path):
    assert found(data_of(tmp_path, [*GOOD, GOOD[0]]), "duplicates").level == "MINOR"
    one = found(data_of(tmp_path, [*GOOD, *GOOD]), "duplicates")
    assert (one.level, one.text) == ("MAJOR", "9 of 18 rows equal an earlier one")
    assert one.where[0] == "f:10"
    # The same tokens with other weights are another example.
    other = Example(GOOD[0].ids_T, np.array([0, 1, 1, 1], np.float32))
    assert found(data_of(tmp_path, [GOOD[0], other]), "duplicates").level == "OK"


def test_overlap_of_training_and_evaluation(tmp_path):
    data, other = data_of(tmp_path, GOOD), data_of(tmp_path, GOOD[3:5], "b")
    one = found(data, "evaluation", other)
    assert (one.level, one.text) == ("MAJOR", "2 of 2 evaluation rows are trained on")


def test_equal_sides_of_a_pair(tmp_path):
    data = data_of(tmp_path, [(GOOD[0], GOOD[1]), (GOOD[2], GOOD[2])])
    one = found(data, "pairs")
    assert (one.level, one.where) == ("MAJOR", ("f:2",))

"""Messages one a row give what whole trees give, wherever they stand and in whatever file."""

from __future__ import annotations

import csv
import json
import random

import pytest

from tunesmith.data import read, rewrite
from tunesmith.data.formats import base
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source

TREES = 12


def tree(number):
    """A question, three ranked answers, one of them gone on with."""
    name = f"t{number}"
    ask = {"message_id": f"{name}.0", "parent_id": None, "text": f"Ask {number}?"}
    ask |= {"role": "prompter", "rank": None, "deleted": False, "message_tree_id": f"{name}.0"}
    ask["lang"] = "en"
    ask["replies"] = []
    for rank in (2, 0, None) if number % 3 else (1, 0, 2):
        answer = {**ask, "message_id": f"{name}.{rank}", "parent_id": ask["message_id"]}
        answer |= {"text": f"Answer {number}, {rank}", "role": "assistant", "rank": rank}
        answer |= {"deleted": rank == 2 and number % 2 == 0, "replies": []}
        ask["replies"].append(answer)
    more = {**ask, "message_id": f"{name}.more", "parent_id": f"{name}.0.best", "replies": []}
    best = next(one for one in ask["replies"] if one["rank"] == 0)
    best["message_id"] = f"{name}.0.best"
    last = {**more, "message_id": f"{name}.last", "parent_id": more["message_id"]}
    last |= {"text": f"Thus {number}.", "role": "assistant", "rank": 0, "replies": []}
    more |= {"text": f"And {number}?", "rank": 0, "replies": [last]}
    best["replies"] = [more]
    return {"message_tree_id": ask["message_id"], "prompt": ask}


def messages(node):
    yield {name: value for name, value in node.items() if name != "replies"}
    for reply in node["replies"]:
        yield from messages(reply)


@pytest.fixture
def flat():
    """The messages of all trees, scattered; those of one parent and the beginnings in order."""
    found = [one for number in range(TREES) for one in messages(tree(number)["prompt"])]
    order = random.Random(3).sample(range(len(found)), len(found))
    by_parent: dict = {}
    for one in found:
        by_parent.setdefault(one["parent_id"], []).append(one)
    parents = [found[i]["parent_id"] for i in order]
    return [by_parent[parent].pop(0) for parent in parents]


def lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def table(path, values):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(values[0]))
        writer.writeheader()
        writer.writerows(values)
    return path


def parquet(path, values):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    columns = arrow.Table.from_pylist(values)
    place = columns.column_names.index("rank")
    ranks = columns.column("rank").cast(arrow.float64())  # as pandas writes numbers with gaps
    files.write_table(columns.set_column(place, "rank", ranks), path)
    return path


def samples(path, name):
    module = base.load(name)
    rows = list(read.rows(path))
    return [base.samples(module, row, {}, DataConfig()) for row in rows]


@pytest.mark.parametrize(("write", "name"), [(lines, "f.jsonl"), (table, "f.csv"),
                                             (parquet, "f.parquet")])  # fmt: skip
def test_flat_messages_give_what_trees_give(tmp_path, flat, write, name):
    whole = lines(tmp_path / "trees.jsonl", map(tree, range(TREES)))
    scattered = write(tmp_path / name, flat)
    for format in ("oasst", "oasst_pairs"):
        expected = samples(whole, format)
        assert samples(scattered, format) == expected
        assert sum(map(len, expected)) >= TREES
    assert read.notes(scattered)[-1].endswith("(all are held in memory)")
    assert read.notes(whole) == []


def test_a_tree_stands_where_it_begins_and_keeps_its_columns(tmp_path, flat):
    path = lines(tmp_path / "f.jsonl", flat)
    places = [number for number, one in enumerate(flat, 1) if one["parent_id"] is None]
    rows = list(read.rows(path))
    assert [row.line for row in rows] == places
    assert {row.value["prompt"]["lang"] for row in rows} == {"en"}
    assert len(list(read.rows(path, max_samples=5))) == 5
    assert len(list(read.rows(path, gather=False))) == len(flat)


def test_scattered_over_the_files_of_a_folder(tmp_path, flat):
    folder = tmp_path / "parts"
    folder.mkdir()
    lines(folder / "a.jsonl", flat[::2])
    lines(folder / "b.jsonl", flat[1::2])
    found = {row.value["message_tree_id"]: row for row in read.rows(folder)}
    assert len(found) == TREES
    assert {row.file for row in found.values()} == {str(folder / f"{x}.jsonl") for x in "ab"}


def test_no_message_is_lost_without_a_word(tmp_path, flat):
    gone = {"message_id": "x", "parent_id": "nowhere", "text": "lost", "role": "prompter"}
    below = {**gone, "message_id": "y", "parent_id": "x"}
    odd = [{"text": "no message"}, flat[0], {**gone, "message_id": None}]
    path = lines(tmp_path / "f.jsonl", [*flat, below, gone, *odd])
    bad: list[DataError] = []
    assert len(list(read.rows(path, on_bad=bad.append))) == TREES
    end = len(flat)
    told = {int(one.where.rpartition(":")[2]) - end: one.what for one in bad}
    assert told == {
        1: "the tree it belongs to has no beginning",
        2: "the message it answers is in no row",
        3: "no message of a tree, as the rows before it are",
        4: f"the message_id {flat[0]['message_id']} stands twice",
        5: "the message has no id",
    }
    assert {one.code for one in bad} == {"D240"}
    with pytest.raises(DataError, match="D240"):
        list(read.rows(path))


def test_messages_that_answer_each_other_in_a_circle_are_told(tmp_path):
    circle = [{"message_id": a, "parent_id": b, "text": a, "role": ""} for a, b in ("xy", "yx")]
    bad: list[DataError] = []
    assert not list(read.rows(lines(tmp_path / "f.jsonl", circle), on_bad=bad.append))
    assert len(bad) == 2


def test_how_deep_a_tree_may_be(tmp_path):
    chain = [{"message_id": "0", "parent_id": None, "text": "0", "role": "prompter"}]
    for i in range(1, 3000):
        role = "assistant" if i % 2 else "prompter"
        chain.append({**chain[0], "message_id": str(i), "parent_id": str(i - 1), "role": role})
    (row,) = read.rows(lines(tmp_path / "f.jsonl", chain[:200]))
    (made,) = base.samples(base.load("oasst"), row, {}, DataConfig())
    assert len(made.messages) == 200
    with pytest.raises(DataError, match=r"D240(.|\n)*3,000 messages deep"):
        list(read.rows(lines(tmp_path / "f.jsonl", chain)))


def test_files_are_made_of_flat_messages(tmp_path, flat):
    path = lines(tmp_path / "f.jsonl", flat)
    out = tmp_path / "chats.jsonl"
    source = Source(str(path), format="oasst")
    made = rewrite.to_format(source, out, "openai", rewrite.LeftOut(skip=False))
    assert (made["rows"], made["written"], made["left_out"]) == (TREES, TREES, 0)
    first = json.loads(out.read_text().splitlines()[0])["messages"]
    assert [one["role"] for one in first] == ["user", "assistant", "user", "assistant"]

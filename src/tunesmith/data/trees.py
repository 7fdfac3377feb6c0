"""Trees of messages that stand one message a row, as `OpenAssistant/oasst1` holds them, made whole.

A message names the one it answers (`parent_id`, empty at a tree's beginning); those of one tree may
stand anywhere in the source. Made of them are the rows of the form with whole trees, so that all
that reads rows reads both. All messages of a source are held in memory meanwhile.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tunesmith.data.json_rows import OnBad, Row
from tunesmith.errors import DataError

KEYS = ("message_id", "parent_id", "text", "role")
"""What makes a row a message of a tree."""
SAID = "one message a row, gathered into trees (all are held in memory)"
DEEPEST = 200
"""Messages that may stand one below the other: objects nested deeper can't be written as JSON."""
Found = tuple[Row, dict[str, Any]]
"""Where a message stands, and the message."""
_TRUE = ("true", "1", "1.0")
_NONE = ("", "none", "null", "nan")


def is_message(value: Any) -> bool:
    """Whether a row is a message of a tree, and no whole tree."""
    return isinstance(value, dict) and all(key in value for key in KEYS) and "replies" not in value


def gathered(rows: Iterator[Row], on_bad: OnBad) -> Iterator[Row]:
    """Rows as they are; or, if the first is a message, trees in the order of their beginnings.

    A tree stands where its first message stands. Replies keep the order of their rows.

    Args:
        rows: Rows of a source.
        on_bad: Is told of each row that is no message among messages, or belongs to no tree.
    """
    first = next(rows, None)
    if first is None:
        return iter(())
    rows = itertools.chain([first], rows)
    return _trees(rows, on_bad) if is_message(first.value) else rows


def _trees(rows: Iterable[Row], on_bad: OnBad) -> Iterator[Row]:
    begun: list[Found] = []
    replies: dict[str, list[Found]] = {}
    known: set[str] = set()
    for row in rows:
        if not is_message(row.value):
            on_bad(_bad("D240", "no message of a tree, as the rows before it are", row))
            continue
        message = _message(row.value)
        name, parent = message["message_id"], message["parent_id"]
        if name is None or name in known:
            what = f"the message_id {name} stands twice" if name else "the message has no id"
            on_bad(_bad("D240", what, row))
            continue
        known.add(name)
        if parent is None:
            begun.append((row, message))
        else:
            replies.setdefault(parent, []).append((row, message))
    for row, message in begun:
        tree, depth = _whole(message, replies)
        if depth > DEEPEST:
            on_bad(_bad("D240", f"the tree is {depth:,} messages deep", row))
            continue
        yield row._replace(value=tree)
    _tell_rest(replies, known, on_bad)


def _message(value: Any) -> dict[str, Any]:
    """A message with the types that JSON gives it: a table's cells are text, and a column of
    numbers with gaps holds fractions."""
    made = {sys.intern(key): held for key, held in value.items()}  # thousands of rows share names
    for name in ("message_id", "parent_id"):
        made[name] = None if _is_none(made[name]) else str(made[name])
    if "rank" in made:
        made["rank"] = _rank(made["rank"])
    if "deleted" in made and not isinstance(made["deleted"], bool):
        made["deleted"] = str(made["deleted"]).strip().lower() in _TRUE
    return made


def _is_none(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in _NONE)


def _rank(value: Any) -> Any:
    """A whole number or None where the value means one; else as it is, for the format to refuse."""
    if _is_none(value):
        return None
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _whole(root: dict[str, Any], replies: dict[str, list[Found]]) -> tuple[dict[str, Any], int]:
    """The tree that begins with a message, and its depth; takes its messages out of `replies`."""
    waiting, deepest = [(root, 1)], 1
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        node["replies"] = [reply for _, reply in replies.pop(node["message_id"], ())]
        waiting += [(reply, depth + 1) for reply in node["replies"]]
    tree = {"message_tree_id": root.get("message_tree_id") or root["message_id"], "prompt": root}
    if "tree_state" in root:
        tree["tree_state"] = root["tree_state"]
    return tree, deepest


def _tell_rest(replies: dict[str, list[Found]], known: set[str], on_bad: OnBad) -> None:
    """Messages that no beginning leads to, in the order of their rows."""
    rest = [(row, parent) for parent, found in replies.items() for row, _ in found]
    for row, parent in sorted(rest, key=lambda one: (one[0].file, one[0].place)):
        what = "the message it answers is in no row"
        if parent in known:
            what = "the tree it belongs to has no beginning"
        on_bad(_bad("D240", what, row))


def _bad(code: str, what: str, row: Row) -> DataError:
    fix = "take a file with all messages of each tree, or leave such rows out: on_bad_row: skip"
    return DataError(code, what, where=row.where, fix=fix)

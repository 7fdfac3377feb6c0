"""OpenAssistant's message trees, as conversations along the best-ranked answers.

A row is a tree: `prompt` is its first message, and every message has `text`, `role` (prompter or
assistant) and `replies`; reviewers ranked siblings, 0 is the best (Köpf et al. 2023,
arXiv:2304.07327). What was deleted is not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Message, Role

ROLES = {"tree": ("prompt",)}
SAMPLE = Conversation
WHOLE_FILES = False
SPEAKERS: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}


class Turn(NamedTuple):
    """A message of a tree and the messages before it."""

    message: Message
    rank: int | None
    replies: tuple[Mapping[str, Any], ...]
    before: tuple[Message, ...]


def detect(rows: Sequence[Row]) -> bool:
    """A tree: `prompt` holds a message with `replies`."""
    return base.most(rows, lambda v: _is_tree(v.get("prompt", v.get("tree"))))


def _is_tree(value: object) -> bool:
    return isinstance(value, dict) and "replies" in value and "text" in value


def parse(row: Row, columns: base.Columns, config: DataConfig) -> tuple[Conversation, ...]:
    """The conversation along the best answers; none if nobody answered.

    Raises:
        DataError: D121, D122, D123.
    """
    here: Turn | None = root(row, columns)
    messages: list[Message] = []
    while here is not None:
        messages.append(here.message)
        here = min(children(row, here), key=_order, default=None)
    if messages[-1].role == "user":  # a question nobody answered
        messages.pop()
    return (Conversation(tuple(messages)),) if messages else ()


def _order(turn: Turn) -> float:
    return float("inf") if turn.rank is None else turn.rank


def root(row: Row, columns: base.Columns) -> Turn:
    """The first message of a tree.

    Raises:
        DataError: D121, D122, D123.
    """
    value = base.row_object(row)
    name = base.column(ROLES, value, "tree", columns)
    if name is None:
        base.missing(row, columns.get("tree", "prompt"))
    return _turn(row, value[name], ())


def children(row: Row, turn: Turn) -> list[Turn]:
    """The replies to a message that were kept.

    Raises:
        DataError: D122, D123.
    """
    path = (*turn.before, turn.message)
    return [_turn(row, one, path) for one in turn.replies if not _deleted(one)]


def walk(row: Row, turn: Turn) -> Iterator[list[Turn]]:
    """The replies to each message of a tree, outer first."""
    waiting = [turn]
    while waiting:
        replies = children(row, waiting.pop(0))
        waiting += replies
        if replies:
            yield replies


def _deleted(node: Any) -> bool:
    return isinstance(node, dict) and bool(node.get("deleted"))


def _turn(row: Row, node: Any, before: tuple[Message, ...]) -> Turn:
    name = f"message {len(before) + 1} of the tree"
    if not isinstance(node, dict):
        base.bad(row, "D123", f"{name} is {base.kind(node)}, not an object")
    expected = "assistant" if len(before) % 2 else "prompter"
    if node.get("role", expected) != expected:
        base.bad(row, "D123", f"{name} is by `{node['role']}`, where `{expected}` speaks")
    replies = node.get("replies") or ()
    if not isinstance(replies, list | tuple):
        base.bad(row, "D123", f"the replies of {name} are {base.kind(replies)}, not a list")
    rank = node.get("rank")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
        base.bad(row, "D122", f"the rank of {name} is {base.kind(rank)}, not a whole number")
    text = base.text(row, node.get("text"), f"text of {name}")
    return Turn(Message.of(SPEAKERS[expected], text), rank, tuple(replies), before)

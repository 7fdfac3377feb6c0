"""Samples as rows of UltraChat, Self-Instruct, OpenAssistant and HC3: lists and trees of texts.

Like `data.convert`: what such a row has no place for is refused.
"""

from __future__ import annotations

from tunesmith.data.spoken import Row, exchanges, no_place, plain
from tunesmith.types import Conversation, Message, Preference


def ultrachat(conversation: Conversation) -> Row:
    """`data`: the texts by turns."""
    system, turns = exchanges(conversation)
    row: Row = {"data": [text for pair in turns for text in pair]}
    return {**row, "system": system} if system else row


def self_instruct(conversation: Conversation) -> Row:
    """`instruction` with one instance."""
    system, turns = exchanges(conversation)
    if len(turns) > 1:
        raise no_place("several turns")
    question, answer = turns[0]
    row: Row = {"instruction": question, "instances": [{"input": "", "output": answer}]}
    return {**row, "system": system} if system else row


# ---------------------------------------------------------------- trees


def oasst(conversation: Conversation) -> Row:
    """A tree with one reply to each message."""
    _, turns = _without_system(conversation)
    return {"prompt": _chain([text for pair in turns for text in pair], [])}


def oasst_pairs(pair: Preference) -> Row:
    """A tree that ends in two ranked replies, the better first."""
    answers = [_only_answer(side) for side in (pair.chosen, pair.rejected)]
    made = [_node("assistant", text, [], rank) for rank, text in enumerate(answers)]
    asked = pair.prompt.messages
    # The last question alone is no exchange: it is given an answer to be looked at like the others.
    whole = Conversation((*asked, pair.chosen[0]), pair.prompt.tools)
    _, turns = _without_system(whole)
    texts = [text for both in turns for text in both][:-1]
    return {"prompt": _chain(texts, made)}


def _chain(texts: list[str], last: list[Row]) -> Row:
    """Messages each of which replies to the one before."""
    replies = last
    for place in reversed(range(len(texts))):
        replies = [_node("assistant" if place % 2 else "prompter", texts[place], replies)]
    return replies[0]


def _node(role: str, text: str, replies: list[Row], rank: int | None = None) -> Row:
    row: Row = {"text": text, "role": role, "replies": replies}
    return row if rank is None else {**row, "rank": rank}


# ---------------------------------------------------------------- HC3


def hc3_human(conversation: Conversation) -> Row:
    """A question with a person's answer."""
    return _sides(*_one_exchange(conversation), human=True)


def hc3_chatgpt(conversation: Conversation) -> Row:
    """A question with ChatGPT's answer."""
    return _sides(*_one_exchange(conversation), human=False)


def hc3_pairs(pair: Preference) -> Row:
    """A question with a person's answer, the chosen one, and ChatGPT's."""
    whole = Conversation((*pair.prompt.messages, *pair.chosen), pair.prompt.tools)
    question, chosen = _one_exchange(whole)
    rejected = _stripped(_only_answer(pair.rejected))
    return {"question": question, "human_answers": [chosen], "chatgpt_answers": [rejected]}


def _one_exchange(conversation: Conversation) -> tuple[str, str]:
    _, turns = _without_system(conversation)
    if len(turns) > 1:
        raise no_place("several turns")
    return turns[0][0], _stripped(turns[0][1])


def _sides(question: str, answer: str, *, human: bool) -> Row:
    ours, theirs = ([answer], []) if human else ([], [answer])
    return {"question": question, "human_answers": ours, "chatgpt_answers": theirs}


def _stripped(text: str) -> str:
    if text != text.strip():
        raise no_place("blanks around an answer")
    return text


def _without_system(conversation: Conversation) -> tuple[str, list[tuple[str, str]]]:
    system, turns = exchanges(conversation)
    if system:
        raise no_place("a system prompt")
    return system, turns


def _only_answer(side: tuple[Message, ...]) -> str:
    if len(side) != 1 or side[0].role != "assistant":
        raise no_place("an answer of several messages")
    text = plain(side[0])
    if not text.strip():
        raise no_place("an empty message")
    return text

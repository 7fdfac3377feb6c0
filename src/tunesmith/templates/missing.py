"""Where tokens of a conversation were cut away: the policy is run on positions instead of ids.

A part of a conversation is encoded anew, so its tokens are found again turn by turn: a turn's own
tokens where that turn stands in the whole, the system prompt's at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace

from tunesmith.templates.fit import Encode, Sequences, fit
from tunesmith.templates.pieces import EncodedTurn
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.templates.truncate import Limits, Turns, length
from tunesmith.types import Conversation

NEW = -1
"""The place of a token that the whole does not have: text at a seam is tokenised again."""
SEQUENCE = 32
"""A place is the number of its sequence, shifted by so many bits, plus its position in it."""


def gaps(
    conversation: Conversation, encode: Encode, tokenizer: Tokenizer, limits: Limits
) -> tuple[dict[int, int], ...]:
    """How many tokens are missing in front of which token of each sequence that `fit` gives.

    Args:
        conversation: As for `fit`.
        encode: As for `fit`.
        tokenizer: As for `fit`.
        limits: As for `fit`.

    Returns:
        For each sequence {token: missing in front of it}; in front of its length: at the end.
    """
    # Messages are told apart by identity, and one may stand twice.
    messages = tuple(replace(message) for message in conversation.messages)
    own = Conversation(messages, conversation.tools)
    whole = encode(own)
    placed = [_numbered(turns, number << SEQUENCE) for number, turns in enumerate(whole)]
    controls = frozenset(tokenizer.added.values())

    def places(part: Conversation) -> Sequences:
        uncut = _uncut(part, own)
        if uncut.messages == own.messages:
            made, at = whole, placed
        else:
            made = encode(uncut)
            at = _each(made, whole, placed, lambda a, b, c: _newest(a, b, c, controls))
        return at if part == uncut else _each(encode(part), made, at, _shorter)

    fitted = fit(own, places, tokenizer, limits) or []
    return tuple(_missing(turns, whole) for turns in fitted)


def _numbered(turns: Turns, start: int) -> Turns:
    made = []
    for turn in turns:
        middle = start + len(turn.prompt_ids)
        end = middle + len(turn.completion_ids)
        made.append(_at(turn, [*range(start, middle)], [*range(middle, end)]))
        start = end
    return made


def _at(turn: EncodedTurn, prompt: list[int], completion: list[int]) -> EncodedTurn:
    return turn._replace(prompt_ids=prompt, completion_ids=completion)


def _uncut(part: Conversation, own: Conversation) -> Conversation:
    """The same messages before any text of theirs was cut; answers are not, they tell where."""
    number = {id(message): index for index, message in enumerate(own.messages)}
    system = part.messages[:1] if part.messages[0].role == "system" else ()
    end = number[id(part.messages[-1])] + 1
    start = end - (len(part.messages) - len(system))
    return Conversation(system + own.messages[start:end], own.tools)


def _each(
    made: Sequences,
    whole: Sequences,
    placed: Sequences,
    find: Callable[[Turns, Turns, Turns], Turns],
) -> Sequences:
    """Sequences with places for ids; the last of a part is the last of the whole."""
    count = len(made)
    pairs = zip(made, whole[-count:], placed[-count:], strict=True)
    return [find(turns, of, at) for turns, of, at in pairs]


def _newest(turns: Turns, whole: Turns, placed: Turns, controls: Container[int]) -> Turns:
    """Places of the newest rounds: the first of them follows the system prompt, or what else a
    template begins with."""
    dropped = len(whole) - len(turns)
    before, at = _laid(whole[: dropped + 1]), _laid(placed[: dropped + 1])
    own = whole[dropped].prompt_ids
    ids = turns[0].prompt_ids
    lowest, highest = _seam(ids, before, len(own) if dropped else len(before))
    seam = lowest
    if not dropped:  # a prompt that holds all its history: a message begins with markup
        marks = (n for n in range(min(highest, len(ids) - 1), lowest - 1, -1) if ids[n] in controls)
        seam = next(marks, lowest)
    first = _at(turns[0], _joined(ids, at, lowest, highest, seam), placed[dropped].completion_ids)
    return [first, *placed[dropped + 1 :]]


def _shorter(turns: Turns, whole: Turns, placed: Turns) -> Turns:
    """Places of turns whose questions were cut in the middle of their text."""
    made = []
    for turn, of, at in zip(turns, whole, placed, strict=True):
        lowest, highest = _seam(turn.prompt_ids, of.prompt_ids, len(of.prompt_ids))
        seam = (lowest + highest) // 2
        prompt = _joined(turn.prompt_ids, at.prompt_ids, lowest, highest, seam)
        made.append(_at(turn, prompt, at.completion_ids))
    return made


def _laid(turns: Turns) -> list[int]:
    """The sequence up to the last turn's answer."""
    before = [id for turn in turns[:-1] for id in turn.prompt_ids + turn.completion_ids]
    return before + turns[-1].prompt_ids


def _seam(ids: list[int], whole: list[int], last: int) -> tuple[int, int]:
    """The least and the greatest number of first ids after which the rest may be the whole's end,
    of which at most `last` ids are looked at; the greatest is less if there is something new."""
    most = min(len(ids), len(whole))
    head = next((n for n in range(most) if ids[n] != whole[n]), most)
    most = min(len(ids), last)
    tail = next((n for n in range(most) if ids[-1 - n] != whole[-1 - n]), most)
    return len(ids) - tail, head


def _joined(ids: list[int], places: list[int], lowest: int, highest: int, seam: int) -> list[int]:
    """Places of the whole's beginning, of something new, and of its end."""
    if lowest > highest:
        head, tail = highest, len(ids) - lowest
    else:
        head, tail = seam, len(ids) - seam
    new = [NEW] * (len(ids) - head - tail)
    return places[:head] + new + places[len(places) - tail :]


def _missing(turns: Turns, whole: Sequences) -> dict[int, int]:
    """Steps of more than one between neighbouring places, less what is new there."""
    places = [place for turn in turns for place in turn.prompt_ids + turn.completion_ids]
    sequence = max(places, default=0) >> SEQUENCE
    start = max(sequence, 0) << SEQUENCE
    found: dict[int, int] = {}
    expected, new = start, 0
    for at, place in enumerate([*places, start + length(whole[max(sequence, 0)])]):
        if place == NEW:
            new += 1
            continue
        if count := place - expected - new:
            found[at] = count
        expected, new = place + 1, 0
    return _settled(found)


def _settled(found: dict[int, int]) -> dict[int, int]:
    """Where more is new than missing, the surplus is taken off the largest gap."""
    surplus = sum(count for count in found.values() if count < 0)
    found = {at: count for at, count in found.items() if count > 0}
    if surplus and found:
        largest = max(found, key=lambda at: found[at])
        found[largest] += surplus
    return {at: count for at, count in found.items() if count > 0}

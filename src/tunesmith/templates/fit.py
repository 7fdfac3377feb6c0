"""Makes a conversation fit a length: oldest rounds go first, markup and end markers never.

What remains, in this order: the system prompt and the newest rounds; of a single round that is
still too long, the user's text is cut in its middle until a quarter of the length is left for the
answer; then the answer's tail goes, its end marker stays.
"""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.errors import DataError
from tunesmith.templates.base import EncodedTurn
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Conversation, Message

Sequences = list[list[EncodedTurn]]
LEAST_USER_TOKENS = 8
"""Less of a user's text than this means nothing; such a row is refused."""


def length(turns: list[EncodedTurn]) -> int:
    """Tokens of a sequence."""
    return sum(len(turn.prompt_ids) + len(turn.completion_ids) for turn in turns)


def fit(
    conversation: Conversation,
    encode: Callable[[Conversation], Sequences],
    tokenizer: Tokenizer,
    max_length: int,
) -> Sequences | None:
    """Sequences of at most `max_length` tokens, or None if a prompt can't be made to fit.

    Args:
        conversation: A conversation that ends with the assistant.
        encode: Renders and tokenises one conversation.
        tokenizer: Measures and cuts the user's text.
        max_length: Tokens.
    """
    system, rounds = split_rounds(conversation.messages)
    low, high, best = 0, len(rounds) - 1, None
    while low <= high:  # the fewer rounds, the fewer tokens: search for the first that fits
        first = (low + high) // 2
        kept = tuple(message for r in rounds[first:] for message in r)
        sequences = _tried(encode, Conversation(system + kept, conversation.tools))
        if sequences and all(length(turns) <= max_length for turns in sequences):
            best, high = sequences, first - 1
        else:
            low = first + 1
    if best:
        return best
    last = Conversation(system + rounds[-1], conversation.tools)
    return _fit_round(last, encode, tokenizer, max_length)


def _tried(encode: Callable[[Conversation], Sequences], part: Conversation) -> Sequences:
    """Sequences of a part of a conversation; none if nothing in it is trained, or the template
    refuses it."""
    try:
        return encode(part)
    except DataError:
        return []


def split_rounds(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], list]:
    """(system messages in front, rounds that each begin with a user's message)."""
    system = tuple(m for i, m in enumerate(messages[:1]) if m.role == "system")
    rounds: list[tuple[Message, ...]] = []
    for message in messages[len(system) :]:
        if message.role == "user" or not rounds:
            rounds.append((message,))
        else:
            rounds[-1] = (*rounds[-1], message)
    while len(rounds) > 1 and not any(m.role == "assistant" for m in rounds[-1]):
        rounds.pop()
    return system, rounds


def _fit_round(
    conversation: Conversation,
    encode: Callable[[Conversation], Sequences],
    tokenizer: Tokenizer,
    max_length: int,
) -> Sequences | None:
    """One round: cuts the user's text, then the answer."""
    margin = 0
    for _ in range(6):  # cutting shifts merges at the seam, so measure again
        sequences = _tried(encode, conversation)
        if not sequences:
            return None
        turns = sequences[-1]
        answer = len(turns[-1].completion_ids)
        room = max_length - min(answer, max(max_length // 4, turns[-1].end_tokens + 1))
        excess = length(turns) - answer - room
        if excess <= 0:
            return [cut_answer(turns, max_length)]
        shorter = _cut_user(conversation, excess + margin, tokenizer)
        if shorter is None:
            return None
        conversation, margin = shorter, margin + 4
    return None


def cut_answer(turns: list[EncodedTurn], max_length: int) -> list[EncodedTurn]:
    """The sequence with its last answer's tail cut away; the end marker stays."""
    over = length(turns) - max_length
    if over <= 0:
        return turns
    last = turns[-1]
    keep = len(last.completion_ids) - last.end_tokens - over
    end = last.completion_ids[len(last.completion_ids) - last.end_tokens :]
    return [*turns[:-1], last._replace(completion_ids=last.completion_ids[:keep] + end)]


def _cut_user(conversation: Conversation, excess: int, tokenizer: Tokenizer) -> Conversation | None:
    """The conversation with `excess` tokens out of the middle of its first user message."""
    messages = list(conversation.messages)
    index = next((i for i, m in enumerate(messages) if m.role == "user"), None)
    if index is None:
        return None
    text = messages[index].text
    ids = tokenizer.encode_text(text)
    keep = len(ids) - excess
    if keep < LEAST_USER_TOKENS:
        return None
    # Characters, not ids, are cut, so that no half character is left at the seam.
    characters = max(2, len(text) * keep // len(ids))
    head = characters - characters // 2
    shorter = text[:head] + text[len(text) - characters // 2 :]
    messages[index] = Message.of("user", shorter, messages[index].weight)
    return Conversation(tuple(messages), conversation.tools)

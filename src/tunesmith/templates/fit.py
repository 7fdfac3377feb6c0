"""Makes a conversation fit a length: oldest rounds go first, markup and end markers never.

By the rule `newest_rounds` there remain, in this order: the system prompt and the newest rounds; of
a single round that is still too long, the user's text is cut in its middle until a quarter of the
length is left for the answer; then the answer's tail goes, its end marker stays. The other rules
are those of older systems (see `truncate`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tunesmith.errors import DataError
from tunesmith.templates import truncate
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.templates.truncate import Limits, Turns, cut_answer, length, shortened
from tunesmith.types import Conversation, Message

Sequences = list[Turns]
Encode = Callable[[Conversation], Sequences]
LEAST_USER_TOKENS = 8
"""Less of a user's text than this means nothing; such a row is refused."""


def fit(
    conversation: Conversation, encode: Encode, tokenizer: Tokenizer, limits: Limits
) -> Sequences | None:
    """Sequences within the limits, or None if nothing trainable is left of them.

    Args:
        conversation: A conversation that ends with the assistant.
        encode: Renders and tokenises one conversation.
        tokenizer: Measures and cuts the user's text.
        limits: Lengths, and the rule to cut by.
    """
    if limits.rule == "newest_rounds":
        return _newest_rounds(conversation, encode, tokenizer, limits)
    if limits.rule == "newest_rounds_head":
        return _newest_rounds_head(conversation, encode, limits)
    made = [truncate.cut(turns, limits) for turns in encode(conversation)]
    return [turns for turns in made if _says_something(turns)] or None


def misfit(conversation: Conversation, encode: Encode, tokenizer: Tokenizer, limits: Limits) -> str:
    """Why `fit` leaves nothing of a conversation: the limit without which something would be left,
    and the tokens that break it."""
    fits = lambda **changed: fit(conversation, encode, tokenizer, replace(limits, **changed))
    rule = f"data.truncation {limits.rule}"
    if (limit := limits.max_prompt_length) is not None and fits(max_prompt_length=None):
        longest = max(len(turn.prompt_ids) for turns in encode(conversation) for turn in turns)
        said = f"{longest} tokens in a prompt, but data.max_prompt_length is {limit}"
        return f"the prompt alone does not fit: {said}, {rule}"
    if (limit := limits.max_answer_length) is not None and fits(max_answer_length=None):
        return f"no word of the answer is left: data.max_answer_length is {limit}, {rule}"
    part = conversation
    if limits.rule.startswith("newest_rounds"):  # earlier rounds went already
        system, rounds = split_rounds(conversation.messages)
        part = Conversation(system + rounds[-1], conversation.tools)
    turns = (_tried(encode, part) or encode(conversation))[-1]
    prompt = length(turns) - len(turns[-1].completion_ids)
    said = f"{prompt} tokens, but data.max_length is {limits.max_length}, for the answer too"
    return f"the prompt alone does not fit: {said}, {rule}"


def _says_something(turns: Turns) -> bool:
    """Whether a trained answer has words left."""
    return any(turn.weight and len(turn.completion_ids) > turn.end_tokens for turn in turns)


def _newest_rounds(
    conversation: Conversation, encode: Encode, tokenizer: Tokenizer, limits: Limits
) -> Sequences | None:
    def shorter(part: Conversation) -> Sequences:
        answer = limits.max_answer_length or limits.max_length
        return [[shortened(turn, answer) for turn in turns] for turns in encode(part)]

    if limits.max_prompt_length is not None:
        cut = _cut_prompts(conversation, shorter, tokenizer, limits.max_prompt_length)
        if cut is None:
            return None
        conversation = cut
    found, last = _newest_that_fit(conversation, shorter, limits.max_length)
    return found or _fit_round(last, shorter, tokenizer, limits.max_length)


def _newest_rounds_head(
    conversation: Conversation, encode: Encode, limits: Limits
) -> Sequences | None:
    """PaddleNLP with a chat template: rounds from the newest; the last one is always kept, its
    question and its answer cut at their ends."""
    found, last = _newest_that_fit(conversation, encode, limits.max_length)
    sequences = found or _tried(encode, last)[-1:]
    made = [truncate.cut_head(turns, limits) if limits.excess([turns]) else turns
            for turns in sequences]  # fmt: skip
    return [turns for turns in made if _says_something(turns)] or None


def _newest_that_fit(
    conversation: Conversation, encode: Encode, max_length: int
) -> tuple[Sequences, Conversation]:
    """Sequences of as many of the newest rounds as fit, perhaps none, and the last round."""
    system, rounds = split_rounds(conversation.messages)
    low, high = 0, len(rounds) - 1
    best: Sequences = []
    while low <= high:  # the fewer rounds, the fewer tokens: search for the first that fits
        first = (low + high) // 2
        kept = tuple(message for r in rounds[first:] for message in r)
        sequences = _tried(encode, Conversation(system + kept, conversation.tools))
        if sequences and all(length(turns) <= max_length for turns in sequences):
            best, high = sequences, first - 1
        else:
            low = first + 1
    return best, Conversation(system + rounds[-1], conversation.tools)


def _tried(encode: Encode, part: Conversation) -> Sequences:
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


def _cut_prompts(
    conversation: Conversation, encode: Encode, tokenizer: Tokenizer, limit: int
) -> Conversation | None:
    """The conversation with each question cut in its middle until its prompt fits, or None."""
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        margin = 0
        for _ in range(6):  # cutting shifts merges at the seam, so measure again
            until = Conversation(conversation.messages[: index + 1], conversation.tools)
            sequences = _tried(encode, until)
            excess = len(sequences[-1][-1].prompt_ids) - limit if sequences else 0
            if excess <= 0:
                break
            shorter = _cut_user(conversation, index, excess + margin, tokenizer)
            if shorter is None:
                return None
            conversation, margin = shorter, margin + 4
        else:
            return None
    return conversation


def _fit_round(
    conversation: Conversation, encode: Encode, tokenizer: Tokenizer, max_length: int
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
        first = next((i for i, m in enumerate(conversation.messages) if m.role == "user"), 0)
        shorter = _cut_user(conversation, first + 1, excess + margin, tokenizer)
        if shorter is None:
            return None
        conversation, margin = shorter, margin + 4
    return None


def _cut_user(
    conversation: Conversation, before: int, excess: int, tokenizer: Tokenizer
) -> Conversation | None:
    """The conversation with `excess` tokens out of the middle of the user's last message before
    the one at `before`."""
    messages = list(conversation.messages)
    index = next((i for i in range(before - 1, -1, -1) if messages[i].role == "user"), None)
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

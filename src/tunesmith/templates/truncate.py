"""Cuts sequences of ids to a length, by the rules of the systems that models were trained with.

They cut tokens wherever the length ends, markup and end markers too; `fit.newest_rounds` does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunesmith.templates.pieces import EncodedTurn
from tunesmith.types import Truncation

Turns = list[EncodedTurn]


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens, and what happens to what is longer."""

    max_length: int
    max_prompt_length: int | None = None
    """Of all that stands before an answer, back to the answer before it."""
    max_answer_length: int | None = None
    """Of an answer with its end marker."""
    rule: Truncation = "newest_rounds"

    def excess(self, sequences: list[Turns]) -> str:
        """Empty, or which limit is broken and by what."""
        longest = max(map(length, sequences))
        if longest > self.max_length:
            return f"{longest} tokens, but data.max_length is {self.max_length}"
        turns = [turn for sequence in sequences for turn in sequence]
        if (limit := self.max_prompt_length) is not None:
            longest = max(len(turn.prompt_ids) for turn in turns)
            if longest > limit:
                return f"{longest} tokens in a prompt, but data.max_prompt_length is {limit}"
        if (limit := self.max_answer_length) is not None:
            longest = max(len(turn.completion_ids) for turn in turns)
            if longest > limit:
                return f"{longest} tokens in an answer, but data.max_answer_length is {limit}"
        return ""

    def prompt_room(self, answer: int) -> int:
        """Tokens for a prompt: its own limit; or what the answer leaves, at least half of all."""
        if self.max_prompt_length is not None:
            return min(self.max_prompt_length, self.max_length)
        return max(self.max_length - answer, self.max_length // 2)


def length(turns: Turns) -> int:
    """Tokens of a sequence."""
    return sum(len(turn.prompt_ids) + len(turn.completion_ids) for turn in turns)


def cut(turns: Turns, limits: Limits) -> Turns:
    """A sequence cut by one of the rules that know nothing of conversations."""
    return _RULES[limits.rule](turns, limits)


def cut_answer(turns: Turns, max_length: int) -> Turns:
    """The sequence with its last answer's tail cut away; the end marker stays."""
    over = length(turns) - max_length
    if over <= 0:
        return turns
    return [*turns[:-1], shortened(turns[-1], len(turns[-1].completion_ids) - over)]


def shortened(turn: EncodedTurn, room: int) -> EncodedTurn:
    """A turn whose answer, with its end marker, has at most `room` tokens."""
    if len(turn.completion_ids) <= room:
        return turn
    words = len(turn.completion_ids) - turn.end_tokens
    end = turn.completion_ids[words:]
    return turn._replace(completion_ids=turn.completion_ids[: max(room - len(end), 0)] + end)


def _cut_end(turns: Turns, limits: Limits) -> Turns:
    """llms_tool, LLM-Tuning and the Llama-3 scripts: the first tokens of the whole."""
    kept = [shortened(turn, limits.max_answer_length or limits.max_length) for turn in turns]
    if limits.max_prompt_length is not None:
        room = limits.max_prompt_length
        kept = [turn._replace(prompt_ids=turn.prompt_ids[:room]) for turn in kept]
    return _without(kept, limits.max_length, length(kept)) if kept else kept


def _oldest_rounds(turns: Turns, limits: Limits) -> Turns:
    """LLaMA-Efficient-Tuning, training: each part cut at its end, then turns from the first."""
    half = limits.max_length // 2
    prompt, answer = limits.max_prompt_length or half, limits.max_answer_length or half
    made: Turns = []
    for turn in turns:
        shorter = _without([turn], prompt, len(turn.prompt_ids))
        shorter = [_without_end(each, answer) for each in shorter]
        if length([*made, *shorter]) > limits.max_length:
            break
        made += shorter
    return made


def _cut_prompt_start(turns: Turns, limits: Limits) -> Turns:
    """PaddleNLP without a chat template: the prompt's newest tokens, then what fits of the answer;
    an answer that is cut loses its end marker."""
    before, room = _prompt(turns, limits)
    return _answered(_without(turns, 0, before - room), limits, keep_end=False)


def _cut_prompt_end(turns: Turns, limits: Limits) -> Turns:
    """LLaMA-Efficient-Tuning, evaluation and reward models: the prompt's oldest tokens."""
    before, room = _prompt(turns, limits)
    return _answered(_without(turns, room, before), limits, keep_end=False)


def _cut_prompt_middle(turns: Turns, limits: Limits) -> Turns:
    """LongBench: the prompt's first half and its last half, as long as each other."""
    before, room = _prompt(turns, limits)
    if before > room:
        turns = _without(turns, room // 2, before - room // 2)
    return _answered(turns, limits, keep_end=True)


def cut_head(turns: Turns, limits: Limits) -> Turns:
    """PaddleNLP with a chat template, its last round: the first tokens of the system prompt and
    the question, then the first of the answer."""
    before, room = _prompt(turns, limits)
    return _answered(_without(turns, room, before), limits, keep_end=False)


_RULES: dict[str, Callable[[Turns, Limits], Turns]] = {
    "cut_end": _cut_end,
    "oldest_rounds": _oldest_rounds,
    "cut_prompt_start": _cut_prompt_start,
    "cut_prompt_end": _cut_prompt_end,
    "cut_prompt_middle": _cut_prompt_middle,
}


def _prompt(turns: Turns, limits: Limits) -> tuple[int, int]:
    """(tokens before the last answer, how many of them may stay)."""
    answer = len(turns[-1].completion_ids)
    return length(turns) - answer, limits.prompt_room(answer)


def _answered(turns: Turns, limits: Limits, *, keep_end: bool) -> Turns:
    """The sequence with its last answer cut to the tokens that are left for it."""
    if not turns or not turns[-1].completion_ids:
        return []
    last = turns[-1]
    room = limits.max_length - (length(turns) - len(last.completion_ids))
    room = min(room, limits.max_answer_length or room)
    whole = keep_end and room > last.end_tokens  # else there is no room for a word before it
    return [*turns[:-1], shortened(last, room) if whole else _without_end(last, room)]


def _without_end(turn: EncodedTurn, room: int) -> EncodedTurn:
    """A turn with the first `room` tokens of its answer; a cut answer has no end marker."""
    words = len(turn.completion_ids) - turn.end_tokens
    if len(turn.completion_ids) <= room:
        return turn
    return turn._replace(completion_ids=turn.completion_ids[: min(room, words)], end_tokens=0)


def _without(turns: Turns, start: int, stop: int) -> Turns:
    """The sequence without its tokens from `start` up to `stop`; empty turns are left out."""
    if stop <= start:
        return turns
    at, made = 0, []
    for turn in turns:
        prompt = _part(turn.prompt_ids, start - at, stop - at)
        at += len(turn.prompt_ids)
        completion = _part(turn.completion_ids, start - at, stop - at)
        at += len(turn.completion_ids)
        ends = turn.completion_ids and (start >= at or stop <= at - turn.end_tokens)
        if prompt or completion:
            end = turn.end_tokens if ends else 0
            made.append(turn._replace(prompt_ids=prompt, completion_ids=completion, end_tokens=end))
    return made


def _part(ids: list[int], start: int, stop: int) -> list[int]:
    return ids[: max(start, 0)] + ids[max(stop, 0) :]

"""What a sample holds, whichever stage trains on it, and what of its items is trained."""

from __future__ import annotations

from typing import Any

from tunesmith.types import Conversation, Feedback, Preference, Stage

MEASURED: dict[tuple[type, ...], tuple[int, ...]] = {(Feedback,): (1,)}
"""Which examples of each item are not trained on, but measured for the others: another row's
answer, for KTO's reference point."""


def measured(stage: Stage) -> tuple[int, ...]:
    """The numbers of such examples, for a stage."""
    return MEASURED.get(stage.sample, ())


def conversations(sample: Any) -> list[Conversation]:
    """Both sides of a pair, what a verdict is about, or the conversation itself."""
    if isinstance(sample, Preference):
        before, tools = sample.prompt.messages, sample.prompt.tools
        return [Conversation((*before, *side), tools) for side in (sample.chosen, sample.rejected)]
    return [sample.conversation if isinstance(sample, Feedback) else sample]

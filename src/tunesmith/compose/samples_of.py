"""What conversations a sample holds, whichever stage trains on it."""

from __future__ import annotations

from typing import Any

from tunesmith.types import Conversation, Feedback, Preference


def conversations(sample: Any) -> list[Conversation]:
    """Both sides of a pair, what a verdict is about, or the conversation itself."""
    if isinstance(sample, Preference):
        before, tools = sample.prompt.messages, sample.prompt.tools
        return [Conversation((*before, *side), tools) for side in (sample.chosen, sample.rejected)]
    return [sample.conversation if isinstance(sample, Feedback) else sample]

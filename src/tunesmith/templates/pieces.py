"""Chats as pieces of text, markup or content, and as ids: what templates and stages exchange."""

from __future__ import annotations

from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of text: the template's own (markup), or somebody's words (content)."""

    text: str
    markup: bool


class Turn(NamedTuple):
    """A prompt and the completion that answers it, as text.

    The prompt is what stands between the previous completion and this one.
    """

    prompt: tuple[Piece, ...]
    completion: tuple[Piece, ...]
    """The answer and its end marker."""
    weight: float
    """Weight of the completion's tokens."""
    prompt_weight: float = 0.0
    """Weight of the prompt's tokens."""
    answered: bool = True
    """Whether the answer is more than its end marker."""


class EncodedTurn(NamedTuple):
    """A turn as token ids."""

    prompt_ids: list[int]
    completion_ids: list[int]
    weight: float
    end_tokens: int
    """How many of the last completion ids are the end marker."""
    prompt_weight: float = 0.0
    answered: bool = True


def join(pieces: tuple[Piece, ...]) -> str:
    """The text of pieces."""
    return "".join(piece.text for piece in pieces)

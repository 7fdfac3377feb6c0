"""What to do with rows that no format fits: the columns they have suggest it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

QUESTIONS = ("question", "prompt", "query", "instruction", "ask")
ANSWERS = ("answer", "response", "output", "completion", "reply", "summary")
TREES = "hf:OpenAssistant/oasst1/2023-04-12_oasst_ready.trees.jsonl.gz"


def fix(value: Mapping[str, Any] | str) -> str:
    """One line of advice for a row."""
    general = "map the columns, e.g. columns: {prompt: q, completion: a}, or set format:"
    if isinstance(value, str):
        return general
    if {"message_id", "parent_id", "text"} <= set(value):
        return f"each row is one message of a tree: take the file with whole trees, {TREES}"
    if len(value) == 1:
        ((name, held),) = value.items()
        if ";" in name or "\t" in name or "|" in name:
            return "the columns are not separated by commas: save the file with commas, or as .tsv"
        if isinstance(held, list) and held and isinstance(held[0], dict):
            return f"the rows stand under `{name}`: write that array alone, or one row a line"
    asked = [name for name in value if _is(name, QUESTIONS) and isinstance(value[name], str)]
    said = [
        name
        for name in value
        if _is(name, ANSWERS) and isinstance(value[name], str) and name not in asked
    ]
    if len(asked) == 1 and len(said) == 1:
        return f"map the columns: {{prompt: {asked[0]}, completion: {said[0]}}}"
    if len(asked) == 1 and len(said) == 2:
        pair = f"{{prompt: {asked[0]}, chosen: {said[0]}, rejected: {said[1]}}}"
        return f"map the columns: {pair}, the better answer as chosen"
    return general


def _is(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)

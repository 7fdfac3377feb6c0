"""Turns with other keys and speakers than {from: human, value: …}, named by roles in `columns:`.

The names are those of LLaMA-Factory's `tags`: role_tag and content_tag are the keys of a turn, the
others what its speakers are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPEAKERS = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
NAMES = ("role_tag", "content_tag", *SPEAKERS)
ROLES: dict[str, tuple[str, ...]] = dict.fromkeys(NAMES, ())


def standard(value: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with its turns as {from, value} and ShareGPT's speakers."""
    if not any(tag in columns for tag in NAMES):
        return dict(value)
    role, content = columns.get("role_tag", "from"), columns.get("content_tag", "value")
    called = {columns[tag]: speaker for tag, speaker in SPEAKERS.items() if tag in columns}

    def turn(item: Any) -> Any:
        if not isinstance(item, dict) or role not in item:
            return item
        speaker = item[role]
        if isinstance(speaker, str):
            speaker = called.get(speaker, speaker)
        return {"from": speaker, "value": item.get(content)}

    return {
        name: [turn(item) for item in v] if isinstance(v, list) else turn(v)
        for name, v in value.items()
    }

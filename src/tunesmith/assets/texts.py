"""Public-domain books as clean documents: Gutenberg, Shakespeare, Chinese classics.

Reads the files as they come (plain text, the chinese-poetry project's JSON) and yields documents
of a few hundred words, so that each fits the context of a small model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Every n-th document: a model this small learns little from novels, much from plain tales.
ENGLISH = {
    "gutenberg/GrimmsFairyTales.txt": 1,
    "gutenberg/war-and-peace.txt": 5,
    "tinyshakespeare/input.txt": 4,
}
# Short and well known pieces; the long ones in traditional script would double the characters.
CHINESE = (
    "唐诗三百首.json",
    "宋词三百首.json",
    "shijing.json",
    "caocao.json",
    "chuci.json",
    "lunyu.json",
    "mengxue/qianjiashi.json",
    "mengxue/sanzijing-new.json",
    "mengxue/dizigui.json",
    "mengxue/zengguangxianwen.json",
    "mengxue/zhuzijiaxun.json",
    "mengxue/qianziwen.json",
)
_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"})


def english(folder: Path, size: int = 1800) -> Iterator[str]:
    """Documents of about `size` characters, cut at paragraphs, lines unwrapped."""
    for name, every in ENGLISH.items():
        text = (folder / name).read_text("utf-8").translate(_QUOTES).replace("_", "")
        verse = "shakespeare" in name
        paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
        if not verse:
            paragraphs = [re.sub(r"\s+", " ", p) for p in paragraphs]
        yield from list(_gather(paragraphs, size))[::every]


def chinese(folder: Path) -> Iterator[str]:
    """Poems and short classical pieces, title and author first."""
    for name in CHINESE:
        value = json.loads((folder / "chinese-poetry" / name).read_text("utf-8"))
        yield from _pieces(value, "")


def _gather(paragraphs: list[str], size: int) -> Iterator[str]:
    held: list[str] = []
    for paragraph in paragraphs:
        held.append(paragraph)
        if sum(map(len, held)) > size:
            yield "\n\n".join(held)
            held = []
    if held:
        yield "\n\n".join(held)


def _pieces(value: Any, title: str) -> Iterator[str]:
    """Walks the JSON of any of the sets: a dict with lines is a piece, else its children are."""
    if isinstance(value, list):
        for child in value:
            yield from _pieces(child, title)
        return
    if not isinstance(value, dict):
        return
    own = value.get("title") or value.get("chapter") or title
    lines = value.get("paragraphs") or value.get("content") or []
    if lines and all(isinstance(line, str) for line in lines):
        head = f"《{own}》 {value.get('author', '')}".strip()
        text = "\n".join([head, *lines])
        yield from (text[at : at + 700] for at in range(0, len(text), 700))
    else:
        yield from _pieces(lines, own)

"""Placeholders in rows: `<NAME>`, `{{name}}` and the like, filled from a source's `fill:`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from tunesmith.data import read
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import Source

LOOK_AT = 20
"""Rows that are looked through for placeholders."""
_USUAL = re.compile(r"<(NAME|AUTHOR)>|\{\{(name|author|NAME|AUTHOR)\}\}")


def filled(row: Row, fill: Mapping[str, str]) -> Row:
    """The row with `<KEY>`, `{{key}}` and `{{KEY}}` replaced by the value of each key."""
    if not fill:
        return row
    texts = {
        spelt: value
        for key, value in fill.items()
        for spelt in (f"<{key.upper()}>", f"{{{{{key}}}}}", f"{{{{{key.upper()}}}}}")
    }
    return row._replace(value=_replaced(row.value, texts))


def _replaced(value: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for spelt, text in texts.items():
            value = value.replace(spelt, text)
        return value
    if isinstance(value, list):
        return [_replaced(item, texts) for item in value]
    if isinstance(value, dict):
        return {name: _replaced(item, texts) for name, item in value.items()}
    return value


def unfilled(source: Source, format: str) -> str:
    """A note on placeholders in the first rows that nothing fills, or an empty string."""
    found = read.rows(
        source.path,
        max_samples=LOOK_AT,
        whole=formats.load(format).WHOLE_FILES,
        on_bad=lambda error: None,
    )
    rows = [filled(row, source.fill or {}) for row in itertools.islice(found, LOOK_AT)]
    names = {match.group(0) for row in rows for match in _USUAL.finditer(str(row.value))}
    if not names:
        return ""
    shown = ", ".join(sorted(names))
    return f"{source.path} holds {shown}, trained as it stands: fill: {{name: …, author: …}}"

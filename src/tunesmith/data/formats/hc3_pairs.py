"""HC3 rows as pairs: the people's answers are chosen, ChatGPT's rejected; `columns:` can swap them.

columns: {human_answers: chatgpt_answers, chatgpt_answers: human_answers}
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.formats import _hc3, base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Preference

ROLES = {name: (name,) for name in ("question", _hc3.HUMAN, _hc3.CHATGPT)}
SAMPLE = Preference
WHOLE_FILES = False


def detect(rows: Sequence[Row]) -> bool:
    """HC3's columns; a stage that trains on pairs takes this reading of them."""
    return _hc3.fits(rows)


def parse(row: Row, columns: base.Columns, config: DataConfig) -> tuple[Preference, ...]:
    """The first answer of either side with each other, the second ones, and so on.

    Raises:
        DataError: D121, D122.
    """
    row = base.renamed(row, columns) if columns else row
    prompt = Conversation((_hc3.question(row),))
    sides = zip(_hc3.answers(row, _hc3.HUMAN), _hc3.answers(row, _hc3.CHATGPT), strict=False)
    return tuple(Preference(prompt, (chosen,), (rejected,)) for chosen, rejected in sides)

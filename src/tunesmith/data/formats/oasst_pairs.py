"""OpenAssistant's message trees, as pairs: of two ranked answers the better is chosen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tunesmith.data.formats import base, oasst
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Preference

ROLES = oasst.ROLES
SAMPLE = Preference
WHOLE_FILES = False


def detect(rows: Sequence[Row]) -> bool:
    """The same rows as `oasst`: the stage decides which of the two is meant."""
    return oasst.detect(rows)


def parse(row: Row, columns: base.Columns, config: DataConfig) -> tuple[Preference, ...]:
    """Every two ranked answers to one question, as Ouyang et al. 2022 (arXiv:2203.02155) use them;
    none in a tree without ranked answers.

    Raises:
        DataError: D121, D122, D123.
    """
    pairs = []
    for replies in oasst.walk(row, oasst.root(row, columns)):
        answers = [turn for turn in replies if turn.message.role == "assistant"]
        ranked = sorted((turn.rank, i) for i, turn in enumerate(answers) if turn.rank is not None)
        for (better, i), (worse, j) in itertools.combinations(ranked, 2):
            if better < worse:
                prompt = Conversation(answers[i].before)
                pairs.append(Preference(prompt, (answers[i].message,), (answers[j].message,)))
    return tuple(pairs)

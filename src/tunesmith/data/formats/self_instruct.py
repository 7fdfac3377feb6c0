"""Self-Instruct's tasks: an instruction and `instances` of {input, output}, a sample each."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.formats import alpaca, base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation

ROLES = {"instruction": ("instruction",), "instances": ("instances",)}
SAMPLE = Conversation
WHOLE_FILES = False


def detect(rows: Sequence[Row]) -> bool:
    """`instruction` and a list of `instances`."""
    return base.most(rows, lambda v: "instruction" in v and isinstance(v.get("instances"), list))


def parse(row: Row, columns: base.Columns, config: DataConfig) -> tuple[Conversation, ...]:
    """One conversation for each instance.

    Raises:
        DataError: D121, D122, D123.
    """
    row = base.renamed(row, columns) if columns else row
    value = base.row_object(row)
    if "instances" not in value:
        base.missing(row, "instances")
    instances = value["instances"]
    if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
        base.bad(row, "D123", "`instances` is no list of {input, output}")
    shared = {name: value[name] for name in alpaca.ROLES if name in value}
    one_by_one = (row._replace(value={**shared, **instance}) for instance in instances)
    return tuple(alpaca.parse(one, {}, config) for one in one_by_one)

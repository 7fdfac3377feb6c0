"""The table of real files in docs/data.md is what reading them gives; so are histories."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.data.formats.parsing import CONFIG
from tunesmith.data import read
from tunesmith.data.formats import alpaca

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.shared
def test_the_table_is_current(shared_data):
    page = (DOCS / "data.md").read_text("utf-8")
    lines = runpy.run_path(str(DOCS / "data_table.py"))["lines"]
    assert "\n".join(lines(shared_data)) in page


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["llms_tool/finetune/example/train", "llama-efficient-tuning-old/oaast_sft_zh.json"]
)
def test_real_histories_flat_and_in_pairs_are_the_same(shared_data, name):
    compared = 0
    for row in read.rows(shared_data / "instruct" / name):
        pairs = row.value.get("history")
        if pairs:
            flat = {**row.value, "history": [turn for pair in pairs for turn in pair]}
            flattened = alpaca.parse(row._replace(value=flat), {}, CONFIG)
            assert flattened == alpaca.parse(row, {}, CONFIG)
            compared += 1
    assert compared > 100

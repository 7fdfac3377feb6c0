"""What a plan says of data is what would be trained."""

from __future__ import annotations

import json

import pytest

from tunesmith import recipe as recipes
from tunesmith.compose import inspection, plan


def recipe(tmp_path, stage, rows, *more):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return recipes.load(None, ["model=builtin:tiny", f"stage={stage}", f"data.train={path}", *more])


def test_kto_counts_what_is_trained_and_not_what_is_measured(tmp_path):
    rows = [{"prompt": f"Ask {i}?", "completion": f"Answer {i}.", "label": i % 2 == 0}
            for i in range(12)]  # fmt: skip
    wanted = recipe(tmp_path, "kto", rows)
    planned, shown = plan.check(wanted), inspection.inspect(wanted)["summary"]
    assert planned["trained_share"] == pytest.approx(shown["trained_share"], abs=1e-4)
    assert shown["measured_tokens"] == shown["trained_tokens"]  # answers of one length
    assert f"{100 * planned['trained_share']:.0f}% trained" in planned["data"]


def test_the_weight_of_a_source_is_no_share(tmp_path):
    rows = [{"prompt": f"Ask {i}?", "completion": f"Answer {i}."} for i in range(12)]
    plain = plan.check(recipe(tmp_path, "sft", rows))["trained_share"]
    path = tmp_path / "rows.jsonl"
    more = f"data.train=[{{path: {path}, weight: 5}}]"
    weighted = plan.check(recipe(tmp_path, "sft", rows, more))["trained_share"]
    assert plain == weighted < 1

"""The example of docs/generation.md runs, and ends where the model ends its answer."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"


def test_the_example_ends_at_a_stop(capsys):
    example = PAGE.read_text("utf-8").split("```python\n")[1].split("```")[0]
    names = {}
    exec(compile(example, str(PAGE), "exec"), names)
    last = names["events"][-1]
    assert last.token in names["how"].stop_ids
    said = capsys.readouterr().out
    assert said.endswith(" stop\n")
    assert "<|" not in said

"""What is said about a model before it is trained."""

from __future__ import annotations

import json

from tunesmith import compose, recipe


class Ears(compose.Display):
    """Keeps what is said."""

    def __init__(self):
        self.lines: list[tuple[str, str]] = []

    def line(self, topic, text):
        self.lines.append((topic, text))


def test_rotations_that_depend_on_the_batch_are_told(tiny_model, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Say {i}", "completion": "ok"}) + "\n" for i in range(8))
    )
    heard = Ears()
    compose.train(
        recipe.from_dict(
            {
                "model": {
                    "path": str(tiny_model),
                    "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
                },
                "data": {"train": str(tmp_path / "rows.jsonl"), "num_proc": 1},
                "train": {"max_steps": 1, "dtype": "float32"},
                "output": {"dir": str(tmp_path / "runs"), "name": "r"},
            }
        ),
        display=heard,
    )
    assert any("longest example of a batch" in text for name, text in heard.lines if name == "note")

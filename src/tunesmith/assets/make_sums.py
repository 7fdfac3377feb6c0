"""Makes the sums that the recipes of `sums/` learn from rewards: questions in words, numbers as
answers.

    python -m tunesmith.assets.make_sums OUT_FOLDER

The embedded model has read sums of numbers up to 12 in two wordings, one of them answered in a
sentence. Here they are asked in others, and the number alone is right. `sums-taught.jsonl` shows
the form of an answer, `sums-train.jsonl` is for rewards, `sums-test.jsonl` is held out: no pair of
numbers that it asks about, in either order, occurs in the other two.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tunesmith.assets.make_demo import conversation

LARGEST = 12
WORDINGS = (
    "{a} + {b} = ?",
    "Add {a} and {b}.",
    "What do {a} and {b} make?",
    "Tell me the sum of {a} and {b}.",
    "I have {a} pears and get {b} more. How many are there?",
    "{a} and {b} together, please.",
)
TAUGHT, TESTED = 60, 240


def main(out: Path, seed: int = 5) -> None:
    """Writes the three files."""
    rng = random.Random(seed)
    pairs = [(a, b) for a in range(LARGEST + 1) for b in range(a, LARGEST + 1)]
    rng.shuffle(pairs)
    rows: list[list[dict]] = [
        [
            conversation(wording.format(a=first, b=second), str(a + b))
            for first, second in dict.fromkeys([(a, b), (b, a)])
            for wording in WORDINGS
        ]
        for a, b in pairs
    ]
    tested: list[dict] = []
    while len(tested) < TESTED:
        tested += rows.pop()
    trained = [row for each in rows for row in each]
    rng.shuffle(trained)
    out.mkdir(parents=True, exist_ok=True)
    files = {"taught": trained[:TAUGHT], "train": trained[TAUGHT:], "test": tested}
    for name, chosen in files.items():
        text = "".join(json.dumps(row) + "\n" for row in chosen)
        (out / f"sums-{name}.jsonl").write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""bench/decode.py: what it asks for, and one small run of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def test_requests_are_the_same_everywhere_and_of_mixed_lengths(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import decode

    made = decode.material("16")
    assert made == decode.material("16")
    assert len({len(prompt) for prompt, _ in made}) > 8
    assert all(8 <= len(prompt) < 400 and 16 <= answer < 160 for prompt, answer in made)
    assert [(len(prompt), answer) for prompt, answer in decode.material("1")] == [(64, 128)]


@pytest.mark.slow
def test_a_round_against_transformers():
    command = [sys.executable, str(BENCH / "decode.py"), "--quick", "--size", "nano"]
    options = ["--cases", "1", "--peers", "transformers"]
    done = subprocess.run(command + options, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert set(last) == {"bench", "ratios", "ours", "peers"}
    assert last["ratios"]["1"]["transformers"]["speed"] > 0

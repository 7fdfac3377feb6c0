"""bench/data.py: a small run of all its ways, on rows of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    sys.modules.pop("data", None)
    import data

    yield data
    sys.modules.pop("data", None)


def test_its_own_rows_are_as_many_as_alpaca_has(bench, tmp_path):
    path = bench.write_rows(tmp_path)
    rows = list(bench.conversations(path, None))
    assert len(rows) == bench.ROWS == 52_002
    assert [one["role"] for one in rows[0]] == ["user", "assistant"]
    assert len({one[0]["content"] for one in rows}) == len(rows)


@pytest.mark.slow
def test_a_round_of_every_way(tmp_path):
    pytest.importorskip("datasets", reason="a peer is datasets.map")
    command = [sys.executable, str(BENCH / "data.py"), "--rows", "300", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert set(last["ratios"]) == {"cold_vs_loop", "cold_vs_datasets_map"}
    assert set(last["tokens_per_second"]) == {"ours_cold", "ours_warm", "loop", "datasets_map"}
    assert all(rate > 0 for rate in last["tokens_per_second"].values())

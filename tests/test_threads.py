"""How threads wait: what tells of company, and that a sleeping team changes nothing but that."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tunesmith import threads
from tunesmith.threads import CALM, Watch, share_in_line, times

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="schedstat is Linux's")

# In a process of its own: libgomp's threads are those of a whole process.
SCRIPT = """
import json, os, time
import torch
from tunesmith import threads
def count(): return len(os.listdir("/proc/self/task"))
def ended(most):  # threads that have ended are listed for a moment
    for _ in range(500):
        if count() <= most: break
        time.sleep(0.01)
    return count()
x = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
def product(): return (x @ x).sin().sum(0)
first = product()
before = count()
library = threads.library()
team = threads.Team(library, 3) if library else None
held = count()
second = product()
if team: team.dismiss()
after = ended(before)
third = product()
threads.release()
released = ended(before - 1)
again = product()
same = [bool(torch.equal(first, other)) for other in (second, third, again)]
print(json.dumps([library is not None, before, held, after, released, same]))
"""


def test_the_share_of_their_time_that_threads_stood_in_line():
    before = {"1": (0, 0), "2": (500, 100), "gone": (9, 9)}
    after = {"1": (600_000_000, 100_000_000), "2": (500, 300_000_100), "new": (10**9, 0)}
    assert share_in_line(before, after, 1.0) == pytest.approx(0.4)


def test_threads_that_did_next_to_nothing_tell_nothing():
    assert share_in_line({"1": (0, 0)}, {"1": (10_000_000, 90_000_000)}, 1.0) is None
    assert share_in_line({}, {}, 1.0) is None


@linux
def test_linux_counts_for_every_thread(tmp_path):
    found = times()
    assert str(os.getpid()) in found
    assert all(computed >= 0 and waited >= 0 for computed, waited in found.values())
    assert times(tmp_path / "none") == {}
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "schedstat").write_text("not counted\n")
    assert times(tmp_path) == {}


@pytest.fixture
def teams(monkeypatch):
    """Stands in for teams: what was made and dismissed, in order."""
    done: list[str] = []

    class Noted:
        def __init__(self, library, count):
            done.append(f"made {count}")

        def dismiss(self):
            done.append("dismissed")

    monkeypatch.setattr(threads, "Team", Noted)
    monkeypatch.setattr(threads, "library", object)
    return done


def test_a_team_stays_as_long_as_there_is_company(teams):
    watch = Watch(2)
    for share in (0.0, 0.02, None, 0.3, 0.3, 0.01, 0.2):
        watch.heed(share)
    assert teams == ["made 2"]
    for share in [0.01, None] * (CALM - 1):
        watch.heed(share)
    assert teams == ["made 2"]
    watch.heed(0.0)
    assert teams == ["made 2", "dismissed"]
    watch.heed(0.5)
    assert teams[2:] == ["made 2"]


def test_without_libgomp_nothing_is_made(monkeypatch):
    monkeypatch.setattr(threads, "library", lambda: None)
    watch = Watch(2)
    watch.heed(0.9)
    assert watch.team is None


@linux
def test_a_team_sleeps_and_goes_and_results_stay(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    served, before, held, after, released, same = json.loads(run.stdout)
    assert same == [True, True, True]
    if not served:
        pytest.skip("this torch computes without libgomp")
    assert held == before + 4  # the one that began it, and three more
    assert after == before
    assert released < before


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "7")],
)
def test_nothing_is_watched_where_the_user_decides_or_one_thread_computes(
    monkeypatch, variable, value
):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(threads, "_watching", [])
    threads.watch()
    assert threads._watching == []

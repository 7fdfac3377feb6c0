"""SIGKILL, torn writes and power loss at every file operation of a save and of a clean-up.

The law: after any of them the newest sound checkpoint is no older than before, it holds exactly
the bits that were saved, leftovers go at the next start, and the next save works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash import faults, scene
from tunesmith.training import checkpoint

Scene = tuple[Path, Callable[[Path], object]]


@pytest.fixture
def begun(tmp_path) -> Path:
    return scene.begin(tmp_path / "begun")


SAVES: dict[str, Callable[[Path], object]] = {
    "another": lambda run: scene.save(run, 3),
    "replaced": lambda run: scene.save(run, 2, salt=7, limit=1),
    "cleaned": checkpoint.clean,
}


def copy(begun: Path, tmp_path: Path, name: str) -> Path:
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(begun, run)
    if name == "cleaned":  # what three killed saves may leave
        folder = run / "checkpoints"
        shutil.copytree(folder / "step-2", folder / ".tmp-3-77-000000000001")
        shutil.copytree(folder / "step-1", folder / ".trash-1-000000000002")
        (folder / "step-2").rename(folder / ".old-2-77-000000000003")
    return run


def operations(begun: Path, tmp_path: Path, name: str) -> int:
    run = copy(begun, tmp_path, name)
    return len(faults.record(lambda: SAVES[name](run), run))


def strike(begun: Path, tmp_path: Path, name: str, at: int, kind: str) -> None:
    run = copy(begun, tmp_path, name)
    ended = faults.run(lambda: SAVES[name](run), faults.kill(run, at, kind))
    assert ended.killed
    before_start = name == "another" and scene.check_newest(run).step
    checkpoint.clean(run)
    assert scene.leftovers(run) == []
    found = scene.check_newest(run)
    assert found.step >= 2
    assert before_start in (False, found.step)
    scene.save(run, 3)
    assert scene.check_newest(run).step == 3
    assert checkpoint.steps(run) == [2, 3]
    assert scene.leftovers(run) == []


def test_killed_at_every_operation(begun, tmp_path):
    count = operations(begun, tmp_path, "another")
    assert count >= 25  # five files written, fsynced, renamed, and an old checkpoint removed
    for at in range(count):
        strike(begun, tmp_path, "another", at, "kill")


@pytest.mark.slow
@pytest.mark.parametrize("kind", faults.KINDS)
@pytest.mark.parametrize("name", SAVES)
def test_every_fault_at_every_operation(begun, tmp_path, name, kind):
    for at in range(operations(begun, tmp_path, name)):
        strike(begun, tmp_path, name, at, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", faults.KINDS)
def test_the_first_save_of_a_run(tmp_path, kind):
    run = tmp_path / "run"

    def begin() -> None:
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()

    begin()
    count = len(faults.record(lambda: scene.save(run, 1), run))
    for at in range(count):
        begin()
        assert faults.run(lambda: scene.save(run, 1), faults.kill(run, at, kind)).killed
        checkpoint.clean(run)
        found = checkpoint.newest(run)
        assert found is None or scene.check_newest(run).step == 1
        scene.save(run, 1)
        assert scene.check_newest(run).step == 1
        assert scene.leftovers(run) == []


def test_order_of_operations(begun, tmp_path):
    """All data is on the disk before the rename, the rename before anything old is touched."""
    run = copy(begun, tmp_path, "another")
    log = faults.record(lambda: scene.save(run, 3), run)
    names = [(op.name, op.path.replace(str(run / "checkpoints"), "")) for op in log]
    commit = next(i for i, op in enumerate(log) if op.name == "os.rename")
    aside = log[commit].path
    files = [op.path for op in log[:commit] if op.name == "write"]
    for path in set(files):
        touched = [i for i, op in enumerate(log) if op.path == path]
        assert [log[i].name for i in touched][-1] == "fsync", names
        assert touched[-1] < commit
    made = [op.path for op in log[:commit] if op.name == "open" and f"{aside}/" in op.path]
    assert len(made) == 5
    assert made[-1].endswith("MANIFEST.json")
    assert [op.name for op in log[commit - 2 : commit]] == ["open", "fsync"]
    assert {op.path for op in log[commit - 2 : commit]} == {aside}
    parent = str(run / "checkpoints")
    assert log[commit + 1 : commit + 3] == [("open", parent), ("fsync", parent)]
    assert log[commit + 3].name == "os.rename"  # the oldest loses its name before its files
    assert all(op.name != "os.remove" for op in log[: commit + 3])


def test_nothing_is_written_behind_the_counter(begun, tmp_path):
    """What a save leaves on the disk went through operations that the other tests strike at."""
    run = copy(begun, tmp_path, "another")
    log = faults.record(lambda: scene.save(run, 3), run)
    written = {Path(op.path).name for op in log if op.name == "write"}
    assert written == {p.name for p in (run / "checkpoints" / "step-3").iterdir()}

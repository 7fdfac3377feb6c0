"""Disk full and I/O errors at every file operation of a save: one clear line, nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.crash import faults, scene
from tunesmith.errors import RunError
from tunesmith.training import checkpoint


@pytest.fixture
def begun(tmp_path) -> Path:
    return scene.begin(tmp_path / "begun")


def strike(begun: Path, tmp_path: Path, at: int, error: int, *, stays: bool = False) -> int:
    """One save that meets an error; returns the exit code of the child."""
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(begun, run)
    ended = faults.run(lambda: scene.save(run, 3), faults.fail(run, at, error, stays=stays))
    found = scene.check_newest(run)
    if ended.code == faults.REFUSED:
        assert "error[R110]: checkpoint at step 3 not written" in ended.message
        assert f"({os.strerror(error)})" in ended.message
        assert checkpoint.steps(run)[:2] == [1, 2]  # nothing was pruned for a save that failed
    else:  # only tidying failed
        assert ended.code == 0
        assert found.step == 3
    if not stays:
        assert [name for name in scene.leftovers(run) if ".tmp-" in name] == []
    checkpoint.clean(run)
    assert scene.leftovers(run) == []
    scene.save(run, 4)
    assert scene.check_newest(run).step == 4
    return ended.code


def operations(begun: Path, tmp_path: Path) -> int:
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    return len(faults.record(lambda: scene.save(run, 3), run))


def test_disk_full_at_every_operation(begun, tmp_path):
    count = operations(begun, tmp_path)
    codes = [strike(begun, tmp_path, at, errno.ENOSPC) for at in range(count)]
    assert codes[0] == faults.REFUSED
    assert codes.count(faults.REFUSED) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_every_error_at_every_operation(begun, tmp_path, error, stays):
    for at in range(operations(begun, tmp_path)):
        strike(begun, tmp_path, at, error, stays=stays)


def test_a_really_full_disk(tmp_path):
    """On a file system of 300 kB, without any injected fault."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        tensors = {"w": torch.zeros(40_000)}
        save = lambda step: checkpoint.save(
            small, step, weights=tensors, optimizer={}, state={}, limit=1, best=None
        )
        save(1)
        with pytest.raises(
            RunError, match=r"step 2 not written \(No space left on device\)"
        ) as error:
            save(2)
        assert error.value.code == "R110"
        assert checkpoint.newest(small).step == 1
        assert scene.leftovers(small) == []
        with pytest.raises(RunError) as error:
            checkpoint.check_space(small, [torch.zeros(40_000)])
        assert error.value.code == "R111"
        assert checkpoint.check_space(small, [torch.zeros(4_000)]) > 48_000
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_directory_without_permission(tmp_path):
    run = scene.begin(tmp_path / "run")
    folder = run / "checkpoints"
    tmp_path.chmod(0o755)
    folder.chmod(0o555)
    nobody = (lambda: os.setuid(65534)) if os.geteuid() == 0 else None  # root may write everywhere
    try:
        ended = faults.run(lambda: scene.save(run, 3), nobody)
    finally:
        folder.chmod(0o755)
    assert ended.code == faults.REFUSED
    assert "error[R110]: checkpoint at step 3 not written (Permission denied)" in ended.message
    assert scene.check_newest(run).step == 2

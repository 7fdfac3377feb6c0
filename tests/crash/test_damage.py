"""Flipped bits, lost sectors, cut files, swapped shards: noticed; clocks and races: harmless."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.crash import faults, scene
from tunesmith.errors import RunError
from tunesmith.training import checkpoint, manifest


@pytest.fixture
def run(tmp_path) -> Path:
    return scene.begin(tmp_path / "run")


def flip_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def zero_sector(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start : start + 512] = bytes(len(data[start : start + 512]))


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def grow(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.randrange(1, 600))


DAMAGES = (flip_bit, zero_sector, cut, grow)


def damage_all(run: Path, trials: int, seed: int) -> None:
    """Damages one file of the newest checkpoint at a time; every time it must be noticed."""
    rng = random.Random(seed)
    files = sorted((run / "checkpoints" / "step-2").iterdir())
    for trial in range(trials):
        path = files[trial % len(files)]
        sound = path.read_bytes()
        data = bytearray(sound)
        rng.choice(DAMAGES)(data, rng)
        if bytes(data) == sound:  # zeros over zeros
            flip_bit(data, rng)
        path.write_bytes(data)
        skipped: list[tuple[str, str]] = []
        found = checkpoint.newest(run, on_skip=lambda p, why: skipped.append((p.name, why)))  # noqa: B023
        assert found.step == 1
        assert [name for name, _ in skipped] == ["step-2"]
        assert path.name in skipped[0][1]
        path.write_bytes(sound)
    assert scene.check_newest(run).step == 2


def test_damage_is_noticed(run):
    damage_all(run, 100, seed=0)


@pytest.mark.slow
def test_damage_is_noticed_2000_times(run):
    damage_all(run, 2000, seed=1)


def test_every_byte_of_the_manifest_counts(run):
    path = run / "checkpoints" / "step-2" / "MANIFEST.json"
    sound = path.read_bytes()
    for at in range(len(sound)):
        data = bytearray(sound)
        data[at] ^= 1
        path.write_bytes(data)
        assert manifest.verify(path.parent) != []
    path.write_bytes(sound)
    assert manifest.verify(path.parent) == []


@pytest.mark.parametrize("name", ["weights-00000-of-00001.safetensors", "MANIFEST.json"])
def test_a_missing_file_is_named(run, name):
    (run / "checkpoints" / "step-2" / name).unlink()
    assert manifest.verify(run / "checkpoints" / "step-2") == [f"{name} is missing"]
    assert checkpoint.newest(run).step == 1
    with pytest.raises(RunError, match=f"step 2 can't be used: {name} is missing") as error:
        checkpoint.open_step(run, 2)
    assert error.value.code == "R113"
    assert "there are: 1, 2" in error.value.fix


def test_a_step_that_never_was(run):
    with pytest.raises(RunError) as error:
        checkpoint.open_step(run, 99)
    assert error.value.code == "R113"


def test_shards_of_two_saves_are_refused(run, tmp_path):
    """Even where someone made the manifest agree with the strange shard."""
    other = scene.begin(tmp_path / "other") / "checkpoints" / "step-2"
    folder = run / "checkpoints" / "step-2"
    name = "weights-00000-of-00001.safetensors"
    shutil.copy(other / name, folder / name)
    assert "sha256 differs" in manifest.verify(folder)[0]

    forged = json.loads((folder / "MANIFEST.json").read_text())
    theirs = json.loads((other / "MANIFEST.json").read_text())
    forged["files"][name] = theirs["files"][name]
    reseal(folder, forged)
    assert manifest.verify(folder) == [f"{name} is of another save than MANIFEST.json"]


def test_a_renamed_checkpoint_is_refused(run):
    (run / "checkpoints" / "step-2").rename(run / "checkpoints" / "step-9")
    assert manifest.verify(run / "checkpoints" / "step-9") == ["MANIFEST.json is of step 2"]
    assert checkpoint.newest(run).step == 1


def test_a_later_format_is_refused_by_name(run):
    folder = run / "checkpoints" / "step-2"
    later = json.loads((folder / "MANIFEST.json").read_text())
    later["format"] = 2
    reseal(folder, later)
    assert manifest.verify(folder) == ["MANIFEST.json has format 2; this version reads 1"]


@pytest.mark.parametrize("name", ["../step-1/state.json", "/etc/hostname", "sub/file"])
def test_a_manifest_can_not_point_outside(run, name):
    folder = run / "checkpoints" / "step-2"
    hostile = json.loads((folder / "MANIFEST.json").read_text())
    hostile["files"][name] = hostile["files"]["state.json"]
    reseal(folder, hostile)
    assert manifest.verify(folder) == ["MANIFEST.json names a file outside the checkpoint"]


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"digest": 1}', "[" * 100_000, "\xff"])
def test_a_manifest_that_is_none(run, text):
    folder = run / "checkpoints" / "step-2"
    (folder / "MANIFEST.json").write_text(text, encoding="latin-1")
    assert manifest.verify(folder) == ["MANIFEST.json is damaged"]


def reseal(folder: Path, value: dict) -> None:
    """Writes a manifest whose own digest is right."""
    value.pop("digest")
    sealed = {**value, "digest": manifest._digest(value)}
    (folder / "MANIFEST.json").write_bytes(manifest.encode(sealed))


def test_clocks_do_not_count(run):
    """Newest is the highest step, whatever the file times say."""
    folder = run / "checkpoints"
    for step, year in ((1, 2_000_000_000), (2, 100)):
        for path in [folder / f"step-{step}", *(folder / f"step-{step}").iterdir()]:
            os.utime(path, (year, year))
    assert checkpoint.newest(run).step == 2
    scene.save(run, 10)  # in text, step-10 comes before step-2
    assert checkpoint.steps(run) == [2, 10]
    assert scene.check_newest(run).step == 10


def test_two_saves_racing(tmp_path):
    """The lock forbids it; if it happens all the same, what is there is still whole."""
    for trial in range(10):
        run = scene.begin(tmp_path / f"run{trial}")
        children = []
        for salt in (1, 2):
            child = os.fork()
            if child == 0:
                try:
                    scene.save(run, 3, salt=salt)
                except RunError:
                    os._exit(faults.REFUSED)
                except BaseException:
                    os._exit(faults.CRASHED)
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert 0 in codes
        assert faults.CRASHED not in codes
        checkpoint.clean(run)
        assert scene.check_newest(run).step == 3
        assert scene.leftovers(run) == []

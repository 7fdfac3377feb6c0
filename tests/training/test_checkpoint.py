"""Checkpoints: what goes in comes out, old ones go by number, failures leave nothing behind."""

from __future__ import annotations

import logging
import os
import shutil

import pytest
import torch

from tunesmith.errors import RunError
from tunesmith.training import checkpoint


def save(run, step, *, weights=None, optimizer=None, state=None, limit=None, best=None):
    return checkpoint.save(
        run,
        step,
        weights={"w": torch.full((4,), float(step))} if weights is None else weights,
        optimizer=optimizer or {},
        state=state or {"step": step},
        limit=limit,
        best=best,
    )


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_goes_in_comes_out(tmp_path):
    embed = torch.randn(5, 3)
    weights = {"embed": embed, "head": embed, "bias": torch.randn(3).bfloat16()}
    optimizer = {"exp_avg/embed": torch.randn(5, 3), "step/embed": torch.tensor(7.0)}
    state = {"step": 7, "best": None, "log": {"sums": {"loss": 0.1 + 0.2}}, "text": "ü\n"}
    path = save(tmp_path, 7, weights=weights, optimizer=optimizer, state=state)
    assert path == tmp_path / "checkpoints" / "step-7"
    assert sorted(p.name for p in path.iterdir()) == [
        "MANIFEST.json",
        "index.json",
        "optimizer-00000-of-00001.safetensors",
        "state.json",
        "weights-00000-of-00001.safetensors",
    ]
    saved = checkpoint.newest(tmp_path)
    assert saved.path == path
    assert saved.step == 7
    assert saved.state == state
    for found, expected in ((saved.weights(), weights), (saved.optimizer(), optimizer)):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_nothing_saved_yet(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.steps(tmp_path) == []
    checkpoint.clean(tmp_path)
    checkpoint.discard_after(tmp_path, 0)


def test_old_ones_go_by_number_and_the_best_stays(tmp_path):
    for step in (5, 10, 15, 100, 105):
        save(tmp_path, step, limit=2, best=10)
    assert names(tmp_path) == ["step-10", "step-100", "step-105"]
    save(tmp_path, 110, limit=2, best=105)
    assert names(tmp_path) == ["step-105", "step-110"]
    save(tmp_path, 115, limit=1, best=None)
    assert names(tmp_path) == ["step-115"]


def test_null_keeps_all(tmp_path):
    for step in range(6):
        save(tmp_path, step, limit=None)
    assert checkpoint.steps(tmp_path) == list(range(6))


def test_the_one_just_written_always_stays(tmp_path):
    """After a damaged step 300 was passed over, step 250 must not be pruned in its favour."""
    save(tmp_path, 300)
    save(tmp_path, 250, limit=1)
    assert 250 in checkpoint.steps(tmp_path)


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3, state={"take": 1})
    (tmp_path / "checkpoints" / "step-3" / "state.json").write_text("damaged")
    assert checkpoint.newest(tmp_path) is None
    save(tmp_path, 3, state={"take": 2})
    assert checkpoint.newest(tmp_path).state == {"take": 2}
    assert names(tmp_path) == ["step-3"]


def test_other_names_are_left_alone(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    for name in ("step-x", "step-", "step-01", "notes", ".hidden"):
        (folder / name).mkdir()
    checkpoint.clean(tmp_path)
    save(tmp_path, 2, limit=1)
    assert checkpoint.steps(tmp_path) == [2]
    assert names(tmp_path) == [".hidden", "notes", "step-", "step-01", "step-2", "step-x"]


def test_going_back_discards_what_came_later(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    checkpoint.discard_after(tmp_path, 1)
    assert names(tmp_path) == ["step-1"]


@pytest.mark.parametrize("group", ["weights", "optimizer"])
def test_non_finite_tensors_are_not_committed(tmp_path, group):
    save(tmp_path, 1)
    bad = {"layer.weight": torch.tensor([1.0, float("nan")])}
    with pytest.raises(RunError, match=r"`layer\.weight`") as error:
        save(tmp_path, 2, **{group: bad})
    assert error.value.code == "R112"
    assert names(tmp_path) == ["step-1"]


def test_any_failure_removes_what_was_written(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(TypeError):
        save(tmp_path, 2, state={"not json": object()})
    assert names(tmp_path) == ["step-1"]


def test_a_failing_prune_only_warns(tmp_path, monkeypatch, caplog):
    save(tmp_path, 1)

    def refuse(path, *rest, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING):
        save(tmp_path, 2, limit=1)
    assert "checkpoint of step 1 could not be removed (Permission denied)" in caplog.text
    assert checkpoint.newest(tmp_path).step == 2
    monkeypatch.undo()
    checkpoint.clean(tmp_path)
    assert names(tmp_path) == ["step-2"]


def test_too_little_space_is_told_before_the_start(tmp_path, monkeypatch):
    parameters = [torch.zeros(1000, 1000)]
    free = shutil.disk_usage(tmp_path)._replace(free=20_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(RunError, match=r"2 checkpoints of 12.0 MB .* 20.0 MB are free") as error:
        checkpoint.check_space(tmp_path, parameters)
    assert error.value.code == "R111"
    save(tmp_path, 1)  # on resume one of the two is there already
    assert checkpoint.check_space(tmp_path, parameters) == 12_002_048


def test_the_estimate_covers_a_real_checkpoint(tmp_path):
    parameters = {"a": torch.randn(300, 20), "b": torch.randn(50)}
    keys = ("exp_avg", "exp_avg_sq")
    moments = {f"{key}/{name}": t.clone() for key in keys for name, t in parameters.items()}
    moments |= {f"step/{n}": torch.tensor(1.0) for n in parameters}
    path = save(tmp_path, 1, weights=parameters, optimizer=moments)
    real = sum(file.stat().st_size for file in path.iterdir())
    assert real <= checkpoint.check_space(tmp_path, parameters.values()) <= real + 4096


class Rank:
    """One of two processes of a save, in a thread of its own, joined by a real barrier."""

    world = 2

    def __init__(self, rank, barrier, board):
        self.rank, self.barrier, self.board = rank, barrier, board

    def sum(self, values):
        self.board[self.rank] = values
        self.barrier.wait(timeout=10)
        total = {name: sum(part[name] for part in self.board) for name in values}
        self.barrier.wait(timeout=10)
        return total


def save_on_two(run, step, state, weights):
    """Saves as two ranks do; returns what each raised."""
    import threading

    barrier, board, raised = threading.Barrier(2), [None, None], [None, None]

    def work(rank):
        try:
            checkpoint.save(
                run,
                step,
                weights=weights[rank],
                optimizer={},
                state=state[rank],
                limit=1,
                best=None,
                parallel=Rank(rank, barrier, board),
            )
        except Exception as error:
            raised[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_two_ranks_write_one_checkpoint(tmp_path):
    weights = {"w": torch.randn(4)}
    for step in (1, 2):
        assert save_on_two(tmp_path, step, [{"step": step}] * 2, [weights] * 2) == [None, None]
    assert names(tmp_path) == ["step-2"]
    saved = checkpoint.newest(tmp_path)
    assert torch.equal(saved.weights()["w"], weights["w"])
    assert sorted(p.name for p in saved.path.glob("*.safetensors")) == [
        f"{group}-0000{rank}-of-00002.safetensors"
        for group in ("optimizer", "weights")
        for rank in (0, 1)
    ]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_stops_all(tmp_path, failing):
    good, bad = {"w": torch.randn(4)}, {"w": torch.full((4,), float("nan"))}
    save_on_two(tmp_path, 1, [{}] * 2, [good] * 2)
    raised = save_on_two(tmp_path, 2, [{}] * 2, [bad, good] if failing == 0 else [good, bad])
    assert raised[failing].code == "R112"
    assert raised[1 - failing].code == "R114"
    assert "another process failed" in str(raised[1 - failing])
    assert names(tmp_path) == ["step-1"]
    assert checkpoint.newest(tmp_path).step == 1


def test_a_commit_that_fails_on_rank_0_stops_all(tmp_path):
    weights = [{"w": torch.randn(4)}] * 2
    raised = save_on_two(tmp_path, 1, [{"bad": object()}, {}], weights)
    assert isinstance(raised[0], TypeError)
    assert raised[1].code == "R114"
    assert names(tmp_path) == []


def test_no_pickle_is_read(tmp_path):
    """A hostile file beside the tensors is not looked at."""
    save(tmp_path, 1)
    canary = tmp_path / "canary"
    hostile = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt", "weights.bin"):
        (tmp_path / "checkpoints" / "step-1" / name).write_bytes(hostile)
    saved = checkpoint.newest(tmp_path)
    saved.weights(), saved.optimizer(), saved.state
    assert not canary.exists()


def test_a_pickle_in_place_of_a_shard_is_refused(tmp_path):
    path = save(tmp_path, 1) / "weights-00000-of-00001.safetensors"
    size = path.stat().st_size
    path.write_bytes(b"\x80\x04" + os.urandom(size - 2))
    assert checkpoint.newest(tmp_path) is None

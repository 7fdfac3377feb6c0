"""Sharded tensors of two real processes: written by both, read whole by one, and the way back."""

from __future__ import annotations

import pytest
import torch

from tests.forked import Forked
from tunesmith.training import checkpoint

pytestmark = pytest.mark.dist

RANK = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from tunesmith.training import checkpoint, shards

dist.init_process_group("gloo", init_method=f"file://{run}/rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

class Gloo:
    world = 2
    rank = rank
    def sum(self, values):
        tensor = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(tensor)
        return dict(zip(values, tensor.tolist()))

whole = {
    "rows": torch.arange(21.0).reshape(7, 3),
    "columns": torch.arange(10.0).reshape(2, 5),
    "same": torch.arange(4.0),
    "thin": torch.arange(3.0).reshape(1, 3),
}
placements = {"rows": Shard(0), "columns": Shard(1), "same": Replicate(), "thin": Shard(0)}
tensors = {n: distribute_tensor(t, mesh, [placements[n]]) for n, t in whole.items()}
tensors["plain"] = torch.ones(2)
tensors["tied"] = tensors["rows"]
checkpoint.save(
    run, 1, weights=tensors, optimizer={}, state={"world": 2}, limit=1, best=None, parallel=Gloo()
)
saved = checkpoint.newest(run).weights()
for name, tensor in tensors.items():
    placed = shards.place(saved[name], tensor)
    local = lambda t: t.to_local() if shards.sharded(t) else t
    assert torch.equal(local(placed), local(tensor)), name
bad = distribute_tensor(torch.tensor([1.0, float("nan")]), mesh, [Shard(0)])
try:
    checkpoint.save(
        run, 2, weights={"bad": bad}, optimizer={}, state={}, limit=1, best=None, parallel=Gloo()
    )
except checkpoint.RunError as error:
    print(error.code)
dist.destroy_process_group()
"""


def test_two_processes_write_one_checkpoint(tmp_path, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    ranks = [
        Forked(lambda rank=rank: exec(RANK, {"run": tmp_path, "rank": rank}), logs / f"{rank}.txt")
        for rank in (0, 1)
    ]
    codes = [rank.wait(120) for rank in ranks]
    said = [rank.said() for rank in ranks]
    assert codes == [0, 0], said
    # The NaN lies on rank 1 alone; both refuse.
    assert [text.split()[-1] for text in said] == ["R114", "R112"]
    assert checkpoint.steps(tmp_path) == [1]

    saved = checkpoint.newest(tmp_path).weights()
    assert torch.equal(saved["rows"], torch.arange(21.0).reshape(7, 3))
    assert torch.equal(saved["columns"], torch.arange(10.0).reshape(2, 5))
    assert torch.equal(saved["same"], torch.arange(4.0))
    assert torch.equal(saved["thin"], torch.arange(3.0).reshape(1, 3))
    assert torch.equal(saved["plain"], torch.ones(2))
    assert torch.equal(saved["tied"], saved["rows"])

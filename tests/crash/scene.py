"""A run directory with checkpoints whose contents are a function of the step."""

from __future__ import annotations

from pathlib import Path

import torch

from tunesmith.training import checkpoint

KEPT = 2


def weights(step: int, salt: int = 0) -> dict[str, torch.Tensor]:
    """Trained tensors as they are at a step."""
    generator = torch.Generator().manual_seed(1000 * salt + step)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return {"layer.weight": draw(16, 9), "layer.bias": draw(9).bfloat16(), "norm": draw(())}


def moments(step: int, salt: int = 0) -> dict[str, torch.Tensor]:
    return {f"exp_avg/{name}": tensor + 1 for name, tensor in weights(step, salt).items()}


def save(run_path: Path, step: int, *, salt: int = 0, limit: int | None = KEPT) -> Path:
    """A save as the loop does it."""
    return checkpoint.save(
        run_path,
        step,
        weights=weights(step, salt),
        optimizer=moments(step, salt),
        state={"step": step, "salt": salt},
        limit=limit,
        best=None,
    )


def begin(run_path: Path) -> Path:
    """A run with checkpoints of steps 1 and 2."""
    run_path.mkdir()
    (run_path / "resolved.yaml").write_text("stage: pretrain\n")
    save(run_path, 1)
    save(run_path, 2)
    return run_path


def check_newest(run_path: Path) -> checkpoint.Checkpoint:
    """The newest checkpoint, whose every bit is what was saved."""
    found = checkpoint.newest(run_path)
    assert found is not None
    salt = found.state["salt"]
    assert found.state == {"step": found.step, "salt": salt}
    same(found.weights(), weights(found.step, salt))
    same(found.optimizer(), moments(found.step, salt))
    return found


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def leftovers(run_path: Path) -> list[str]:
    return sorted(p.name for p in (run_path / "checkpoints").iterdir() if p.name[0] == ".")

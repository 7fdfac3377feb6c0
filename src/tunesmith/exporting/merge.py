"""`merge`: an adapter baked into its base, as an ordinary transformers directory that is proved.

Weights go through memory one at a time. Deltas are computed in float32 and rounded once to the type
of the base. The result is compared with the live adapter before it gets its name.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ConfigError, ExportError, GateFailed
from tunesmith.exporting import adapter_impl, files_impl, plan_impl, shards_impl
from tunesmith.models import load

DTYPES = ("float32", "bfloat16", "float16")
MAX_ABS = 1e-5
"""Largest difference of a logit after a merge in float32, times max(1, largest logit)."""
MAX_KL = 1e-3
"""Largest mean divergence, in nats, after a merge rounded to 16 bits."""


@dataclass(frozen=True)
class MergeReport:
    """What was written, and how far it is from the live adapter (None: not compared)."""

    path: str
    base: str
    adapters: list[str]
    dtype: str
    files: list[str]
    bytes: int
    changed: int
    """Weights that differ from the base's."""
    max_abs_diff: float | None
    max_logit: float | None
    kl: float | None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def merge(
    base: str | Path,
    adapter: Path | Sequence[Path],
    out: Path,
    *,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    replace: bool = False,
    verify: bool = True,
) -> MergeReport:
    """Writes the model that a base and its adapters are.

    Args:
        base: Directory, `builtin:NAME` or hub id of full weights.
        adapter: Directory in PEFT's format; or several, each trained on what the ones before make.
        out: Directory to make. It appears whole or not at all.
        dtype: float32, bfloat16 or float16 for all weights; None: what the base has.
        max_shard_size: Largest weights file, e.g. `5GB`.
        replace: Whether a directory that is there may be replaced.
        verify: Compare the result with the live adapter; needs room for the model in float32.

    Raises:
        ConfigError: C211, not a size or type; C212, `out` is there or is one of the inputs.
        EnvironmentFault: E201–E205, the base can't be found or used.
        ExportError: X101, no adapter; X102, of a kind that can't be merged; X103, unreadable; X104,
            it does not fit the base; X105, values too large for the type.
        GateFailed: G201, the result is not what the live adapter computes; nothing is left behind.
    """
    adapters = [Path(adapter)] if isinstance(adapter, (str, Path)) else [Path(a) for a in adapter]
    directory, _ = load.resolve(str(base))
    _check_out(out, [directory, *adapters], replace)
    limit = shards_impl.parse_size(max_shard_size)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError("C211", f"no dtype {dtype!r}", where="dtype", fix=", ".join(DTYPES))
    if not adapters:
        raise ExportError("X101", "there is no adapter to merge", fix="full models need no merging")
    read = [adapter_impl.read(path) for path in adapters]
    based = plan_impl.read_base(directory)
    plan = plan_impl.plan(based, read, getattr(torch, dtype) if dtype else None)
    aside = out.parent / f".{out.name}-{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        report = _write(aside, out, str(base), directory, adapters, plan, limit)
        if verify:
            report = _verify(report, aside, directory, plan)
        _write_card(report, aside, adapters)
        files_impl.install(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return report


def _check_out(out: Path, inputs: Sequence[Path], replace: bool) -> None:
    real = out.resolve()
    for path in inputs:
        if real == path.resolve() or real in path.resolve().parents:
            raise ConfigError(
                "C212", f"{out} holds what is being merged", where="-o", fix="choose another folder"
            )
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and (not replace or not out.is_dir()):
        raise ConfigError(
            "C212", f"{out} is there already", where="-o", fix="choose another, or add --yes"
        )


def _write(
    aside: Path,
    out: Path,
    name: str,
    directory: Path,
    adapters: Sequence[Path],
    plan: plan_impl.Plan,
    limit: int,
) -> MergeReport:
    """Weights and everything that belongs to them, but the card."""
    notes: list[str] = []
    files = shards_impl.write(aside, plan.tensors, limit)
    files_impl.write_config(directory, aside, plan.config)
    if not files_impl.write_tokenizer([*reversed(adapters), directory], aside):
        notes.append("neither the adapter nor the base has a tokenizer")
    files_impl.write_generation_config([directory, *adapters], aside, notes)
    changed = {t.dtype for t in plan.tensors if t.name in set(plan.changed)}
    return MergeReport(
        path=str(out),
        base=name,
        adapters=[str(path) for path in adapters],
        dtype=" ".join(sorted(str(dtype).removeprefix("torch.") for dtype in changed)),
        files=files,
        bytes=sum((aside / file).stat().st_size for file in files),
        changed=len(plan.changed),
        max_abs_diff=None,
        max_logit=None,
        kl=None,
        notes=notes,
    )


def _verify(report: MergeReport, aside: Path, directory: Path, plan: plan_impl.Plan) -> MergeReport:
    """The report with the measured difference, or with a note why there is none."""
    from tunesmith.exporting import verify_impl  # peft takes a while to import

    size = sum(math.prod(tensor.shape) for tensor in plan.tensors)
    if not verify_impl.fits(size):
        note = f"not compared with the live adapter: that takes {4.5 * size / 1e9:.1f} GB of memory"
        return MergeReport(**{**report.as_dict(), "notes": [*report.notes, note]})
    adapters = [Path(path) for path in report.adapters]
    found = verify_impl.compare(directory, adapters, aside, plan.vocabulary)
    check(found.max_abs, found.max_logit, found.kl, exact=plan.exact)
    measured = {"max_abs_diff": found.max_abs, "max_logit": found.max_logit, "kl": found.kl}
    return MergeReport(**{**report.as_dict(), **measured})


def check(max_abs: float, max_logit: float, kl: float, *, exact: bool) -> None:
    """Holds a measured difference against its bound.

    Args:
        max_abs: Largest difference of a logit.
        max_logit: Largest size of a logit.
        kl: Mean divergence in nats.
        exact: Whether all changed weights are in float32.

    Raises:
        GateFailed: G201, it is larger, or not a number.
    """
    bound = MAX_ABS * max(1.0, max_logit)
    if exact and not max_abs <= bound:
        what = f"logits differ by {max_abs:.2e}, at most {bound:.2e} is allowed"
    elif not exact and not kl <= MAX_KL:
        what = f"the divergence is {kl:.2e} nats, at most {MAX_KL:.0e} is allowed"
    else:
        return
    raise GateFailed(
        "G201",
        f"the merged model is not what the live adapter computes: {what}",
        why="Nothing was written.",
        fix="merge with --dtype float32" if not exact else "please report this with the adapter",
    )


def _write_card(report: MergeReport, aside: Path, adapters: Sequence[Path]) -> None:
    compared = "not compared with the live adapter"
    if report.kl is not None:
        compared = f"max|Δlogit| {report.max_abs_diff:.1e}, KL {report.kl:.1e} nats"
    based = Path(report.base).resolve().name if Path(report.base).exists() else report.base
    facts = {
        "base model": based,
        "weights changed": f"{report.changed} ({report.dtype})",
        "against the live adapter": compared,
    }
    files_impl.write_card(aside, Path(report.path).name, adapters, facts)

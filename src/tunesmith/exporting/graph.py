"""`export --to graph`: a model as torch programs of prefill and one decoding step, with its weights
beside them.

The folder stays an ordinary model directory of transformers. Beside its weights lie two programs in
the JSON of torch's exporter, their constants, and `graph.json`, which says what made them and how
they are called. Nothing in it is a pickle or native code (ADR 0023). It is opened and compared with
the model before it gets its name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ConfigError, ExportError
from tunesmith.exporting import files_impl, graph_files_impl, graph_trace_impl
from tunesmith.generation import graph_impl
from tunesmith.generation.model_impl import context_length
from tunesmith.models import info, load
from tunesmith.recipe.sections import ModelConfig

DTYPES = ("float32", "bfloat16", "float16")
LONGEST = 4096
"""Context that is exported if nothing is said and the model's is longer or unknown."""
TRIED = 10
"""Decoding steps that are compared with the model."""
CLOSE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Logits may differ so much from the model's, relative to the largest."""


@dataclass(frozen=True)
class GraphReport:
    """What was written, and how far its logits are from the model's."""

    path: str
    family: str
    dtype: str
    context: int
    chunk: int
    bytes: int
    operations: int
    """Of the program of one decoding step."""
    max_abs_diff: float
    max_logit: float
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(
    directory: Path,
    out: Path,
    *,
    dtype: str | None = None,
    context: int | None = None,
    replace: bool = False,
    made_of: Mapping[str, Any] | None = None,
) -> GraphReport:
    """Writes the graphs of a model directory.

    Args:
        directory: Full weights, an ordinary transformers directory.
        out: Directory to make. It appears whole or not at all.
        dtype: float32, bfloat16 or float16 of weights and arithmetic; None: as it is stored.
        context: Tokens of prompt and answer together; None: the model's, at most `LONGEST`.
        replace: Whether a directory that is there may be replaced.
        made_of: What to note about where the weights came from.

    Raises:
        ConfigError: C211, no such dtype; C212, `out` is there or holds the model.
        EnvironmentFault: E201–E207, the model can't be used.
        ExportError: X320, a model that has no graph: quantised, or of a family without attention
            interface; X321, torch can't trace it; X322, the graph computes something else; X323,
            a context that the model does not have.
    """
    check_out(directory, out, replace)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError("C211", f"no dtype {dtype!r}", where="dtype", fix=", ".join(DTYPES))
    config = load.read_config(directory)
    _check_kind(directory, config)
    notes: list[str] = []
    reach = _context(config, context, notes)
    stored = info.stored_dtype(directory, "float32")
    compute = dtype or (stored if stored in DTYPES else "float32")
    if dtype is None and compute != "float32":
        notes.append(_rounding(compute))
    hf: Any = load.load(ModelConfig(path=str(directory)), dtype=compute).hf
    hf.eval().requires_grad_(False)
    hf.set_attn_implementation("sdpa" if hf._supports_sdpa else "eager")
    if hf.config.get_text_config().to_dict().get("num_experts_per_tok"):
        hf.set_experts_implementation("batched_mm")  # the others' sizes depend on the tokens
        notes.append("experts are gathered for each token: a chunk of a prompt takes memory for it")
    traced = graph_trace_impl.trace(hf, reach)
    aside = out.parent / f".{out.name}-{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write_model(directory, aside, compute, notes)
        facts = {"dtype": compute, "context": reach, "family": hf.config.model_type}
        graph_files_impl.write(aside, hf, traced, {**facts, "made_of": dict(made_of or {})})
        far, largest = _compare(aside, hf, reach, compute)
        _write_proof(aside, far, largest)
        size = sum(file.stat().st_size for file in aside.iterdir())
        files_impl.install(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    operations = len(traced.programs["decode"]["graph_module"]["graph"]["nodes"])
    numbers = {"operations": operations, "max_abs_diff": far, "max_logit": largest, "notes": notes}
    return GraphReport(str(out), chunk=graph_trace_impl.CHUNK, bytes=size, **facts, **numbers)


def _rounding(compute: str) -> str:
    return (
        f"computes in {compute}, as it is stored: logits of a graph exported with --dtype float32 "
        f"are more exact than these in {compute}"
    )


def check_out(directory: Path, out: Path, replace: bool) -> None:
    """Refuses a folder that may not be written.

    Raises:
        ConfigError: C212, it is there, or holds what is exported.
    """
    real, source = out.resolve(), directory.resolve()
    if real == source or real in source.parents:
        what, fix = f"{out} holds what is being exported", "choose another folder"
        raise ConfigError("C212", what, where="-o", fix=fix)
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and (not replace or not out.is_dir()):
        fix = "choose another, or add --yes"
        raise ConfigError("C212", f"{out} is there already", where="-o", fix=fix)


def refused(what: str, why: str, fix: str) -> ExportError:
    """X320: a model of a kind that has no graph."""
    return ExportError("X320", what, where="--to graph", why=why, fix=fix)


def _check_kind(directory: Path, config: Any) -> None:
    if "quantization_config" in config.to_dict():
        raise refused(
            f"{directory} is quantised",
            "Its arithmetic is that of a library, which no graph of torch's operations holds.",
            "export the weights it was made of",
        )
    if not load.packable(config):
        raise refused(
            f"a {config.model_type} model has no graph here",
            "Its family has no attention interface, or carries state that is not keys and values.",
            "serve the weights: tunesmith chat, generate and serve take them as they are",
        )


def _context(config: Any, asked: int | None, notes: list[str]) -> int:
    reach = context_length(config)
    if asked is not None and (asked < 2 or (reach is not None and asked > reach)):
        most = f"at most {reach:,}, the model's own" if reach else "any above 1"
        what = f"a context of {asked:,} tokens is not possible"
        raise ExportError("X323", what, where="--context", fix=f"2 or more, {most}")
    if asked is not None:
        return asked
    if reach is None or reach > LONGEST:
        said = f"{reach:,}" if reach else "not bounded"
        notes.append(f"context {LONGEST:,} (the model's is {said}; --context sets it)")
        return LONGEST
    return reach


# ---------------------------------------------------------------- files


def _write_model(directory: Path, aside: Path, dtype: str, notes: list[str]) -> None:
    """What makes the folder a model directory, but the weights."""
    files_impl.write_config(directory, aside, {"dtype": dtype})
    if not files_impl.write_tokenizer([directory], aside):
        notes.append("the model has no tokenizer: prompts are token ids")
    files_impl.write_generation_config([directory], aside, notes)
    card = directory / files_impl.CARD
    if card.is_file():  # its system prompt, and what our own chat needs to know
        shutil.copyfile(card, aside / files_impl.CARD)


def _write_proof(aside: Path, far: float, largest: float) -> None:
    manifest = json.loads((aside / graph_impl.MANIFEST).read_text("utf-8"))
    graph_files_impl.write_manifest(aside, {**manifest, "max_abs_diff": far, "max_logit": largest})


# ---------------------------------------------------------------- proof


def _compare(aside: Path, hf: Any, context: int, dtype: str) -> tuple[float, float]:
    """Largest difference of a logit from the model's over a prompt and some steps, and the largest.

    Raises:
        ExportError: X321, the graph has an operation that is not run here; X322, it differs.
    """
    try:
        folder = graph_impl.open_folder(aside)
    except ExportError as error:
        what = f"the graph of a {hf.config.model_type} model can't be run here"
        fix = "serve the weights: tunesmith chat, generate and serve take them as they are"
        raise ExportError("X321", what, why=error.why, fix=fix) from None
    # more than a chunk and half of another, and past a sliding window where it can be
    window = hf.config.get_text_config().to_dict().get("sliding_window") or 0
    chunk = graph_trace_impl.CHUNK
    length = min(context, max(2 * chunk + chunk // 2, min(window, 16 * chunk) + chunk))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, graph_files_impl.width(hf), (length,), generator=generator).tolist()
    begin = max(1, length - TRIED)
    with torch.no_grad():
        state = graph_impl.State(folder)
        found = [state.read(ids[:begin])] + [state.read([id]) for id in ids[begin:]]
        wanted = hf(torch.tensor([ids])).logits[0, begin - 1 :].float()
    far = float((torch.stack(found).float() - wanted).abs().max())
    largest = float(wanted.abs().max())
    if not far <= CLOSE[dtype] * max(1.0, largest):
        raise ExportError(
            "X322",
            f"the graph is not what the model computes: logits differ by {far:.1e}",
            why=f"At most {CLOSE[dtype] * max(1.0, largest):.1e} is allowed; nothing was written.",
            fix="serve the weights: tunesmith chat, generate and serve take them as they are",
        )
    return far, largest

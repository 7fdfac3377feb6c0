"""A decoding step through torch.compile, and the reasons why there may be none."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import torch
from torch import Tensor

from tunesmith import platform
from tunesmith.generation.lanes_impl import SMALLEST, Lane
from tunesmith.models.decoding import Decoder
from tunesmith.models.graph import StepGraph

_log = logging.getLogger("tunesmith.generation")
CLOSE = 1e-3
"""Logits of the compiled step may differ so much from the plain one's, relative to the largest."""
REACH = 4096
"""Positions the graph meets, if the model's context is not known or longer."""


class Refused(Exception):
    """There is no compiled step for this model here; the text says why."""


class CompiledStep:
    """What `Single` does, compiled: one token, one row of a lane.

    Args:
        decoder: A decoder that has a `single`.
        reach: Positions it may meet; beyond them `single` answers.

    Raises:
        Refused: It can't be compiled, or computes something else.
    """

    def __init__(self, decoder: Decoder, reach: int):
        self.single: Any = decoder.single
        self.layers = [layer.index for layer in self.single.layers]
        self.graph = StepGraph(self.single, reach)
        self.reach = reach
        self.step = torch.compile(self.graph, fullgraph=True, dynamic=False)
        self._try()

    def __call__(
        self, token: int, position: int, lane: Lane, row: int, greedy: bool = False
    ) -> Tensor:
        if position >= self.reach or self.layers[-1] not in lane.keys:
            return self.single(token, position, lane, row, greedy)
        keys = [lane.keys[layer][row : row + 1] for layer in self.layers]
        values = [lane.values[layer][row : row + 1] for layer in self.layers]
        for table in (*keys, *values):
            torch._dynamo.maybe_mark_dynamic(table, 2)
        return self.step(torch.tensor([token]), torch.tensor([position]), keys, values)

    def _try(self) -> None:
        """Compiles, and compares one step with the plain one."""
        lane = Lane(SMALLEST, rows=1)
        for position in range(2):
            self.single(1, position, lane, 0)
        wanted_1V = self.single(0, 2, lane, 0)
        try:
            found_1V = self(0, 2, lane, 0)
        except Exception as error:  # whatever a compiler says, there is another way to answer
            first = next(iter(str(error).strip().splitlines()), "")
            raise Refused(f"{type(error).__name__}: {first}") from None
        away = float((found_1V - wanted_1V).abs().max() / wanted_1V.abs().max())
        if not away <= CLOSE:
            raise Refused(f"its logits are {away:.1e} away from the uncompiled step's")


def install(engine: Any) -> str:
    """Gives an engine a compiled step where there can be one; what there is to say about it."""
    forward = getattr(engine, "forward", None)  # cohorts have none
    if forward is None:
        return f"not compiled: {engine.notes[0]}"
    began = time.perf_counter()

    reach = min(engine.context or REACH, REACH)
    with engine.evaluating():
        forward.refresh(False)
        why = reason(forward, forward.decoder)
        try:
            if not why:
                forward.alone = CompiledStep(forward.decoder, reach)
        except Refused as error:
            why = str(error)
    if why:
        return f"not compiled: {why}; the torch engine answers"
    forward.compiler = lambda decoder: _again(decoder, reach)
    seconds = time.perf_counter() - began
    return (
        f"compiled in {seconds:.0f} s: requests that are alone; several go the torch engine's way"
    )


def _again(decoder: Decoder, reach: int) -> Any:
    """The step over other weights of the same model, which compile as the first did."""
    try:
        return CompiledStep(decoder, reach)
    except Refused as error:
        _log.warning("the compiled step is given up: %s", error)
        return decoder.single


def reason(forward: Any, decoder: Decoder | None) -> str:
    """Why there is no compiled step; empty if nothing speaks against it."""
    hf = forward.hf
    if decoder is None:
        return f"{hf.config.model_type} runs its family's own code"
    if decoder.single is None:
        kind = f"{hf.dtype}".removeprefix("torch.")
        return (
            f"it wants at most 1 GiB of float32 weights on a CPU, these are {kind} on {hf.device}"
        )
    missing = compiler_missing()
    if missing:
        return missing
    folder = platform.home() / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return ""


def compiler_missing() -> str:
    """Says so if torch finds no C++ compiler."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError):
        return "there is no C++ compiler (install g++, or set CXX)"
    return ""

"""How a model samples where nobody says otherwise."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from tunesmith.types import Sampling


def defaults(template: Any, path: Path | None) -> Sampling:
    """How a model samples unless told: as its generation config says; greedy where it is silent.

    Log-probabilities are not told.
    """
    config = _generation_config(path)
    names = {"repetition_penalty"}
    if config.get("do_sample"):
        names |= {"temperature", "top_k", "top_p", "min_p", "typical_p"}
    known = {field.name for field in fields(Sampling)}
    advised = {n: config[n] for n in names & known if config.get(n) is not None}
    ends = config.get("eos_token_id")
    stops = {*template.stop_ids, template.tokenizer.eos_id}
    stops |= set(ends if isinstance(ends, list) else [ends])
    stop = tuple(template.stop_strings)
    stop_ids = tuple(sorted(stops - {None}))
    return Sampling(**advised, stop=stop, stop_ids=stop_ids, logprob=False)


def numbers(model: Any) -> tuple[str, ...]:
    """What there is to say about the numbers a model computes with."""
    from tunesmith.models import quantised

    name = str(model.hf.dtype).removeprefix("torch.")
    said = (
        f"computes in {name}: an answer may depend on what else is in its batch; "
        "--dtype float32 is more exact",
    )
    return (*(said if name in ("bfloat16", "float16") else ()), *quantised.notes(model.hf))


def _generation_config(path: Path | None) -> dict[str, Any]:
    file = path / "generation_config.json" if path is not None else None
    if file is None or not file.is_file():
        return {}
    return json.loads(file.read_text(encoding="utf-8"))

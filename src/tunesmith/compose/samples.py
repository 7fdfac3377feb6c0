"""Answers sampled at evaluations into samples.jsonl, so that a user reads what the numbers mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.types import Example, Request, Sampling

MAX_TOKENS = 64
"""Tokens of a sampled answer."""


def sampler(
    dataset: Any, count: int, template: Any, generator: Any, path: Path
) -> Callable[[int], None]:
    """A function that answers the first `count` evaluation prompts, greedily, at a step.

    Args:
        dataset: Evaluation examples; what precedes the first trained token is the prompt.
        count: How many of them to answer.
        template: For decoding and stop tokens.
        generator: A Generator over the model in training.
        path: samples.jsonl; a line a prompt: step, prompt, answer, reference.
    """
    tokenizer = template.tokenizer
    stops = tuple(sorted({*template.stop_ids, tokenizer.eos_id} - {None}))
    sampling = Sampling(max_tokens=MAX_TOKENS, stop_ids=stops, logprob=False)
    examples = [dataset[i][0] for i in range(min(count, len(dataset)))]
    borders = [border(example) for example in examples]

    def sample(step: int) -> None:
        requests = [
            Request(str(i), tuple(e.ids_T[:b].tolist()), sampling)
            for i, (e, b) in enumerate(zip(examples, borders, strict=True))
        ]
        answers = generator.generate(requests)
        with path.open("a", encoding="utf-8") as file:
            for i, (example, at) in enumerate(zip(examples, borders, strict=True)):
                line = {
                    "step": step,
                    "prompt": tokenizer.decode(example.ids_T[:at].tolist()),
                    "answer": "".join(event.text_delta for event in answers[str(i)]),
                    "reference": tokenizer.decode(example.ids_T[at:].tolist(), skip_special=True),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return sample


def border(example: Example) -> int:
    """Where the answer begins: the first trained token, or a quarter in if all are trained."""
    trained = np.flatnonzero(example.weights_T)
    first = int(trained[0]) if len(trained) else len(example.ids_T) - 1
    return first if first > 1 else max(1, len(example.ids_T) // 4)

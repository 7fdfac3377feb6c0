"""A stage's encoder small enough to check by eye: a token is a character, an answer is trained."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from tunesmith.data import store
from tunesmith.types import Conversation, Document, Encoded, Example, Preference


def example(prompt: str, answer: str) -> Example:
    ids = [1, *prompt.encode(), *answer.encode(), 2]
    weights = [0] * (1 + len(prompt.encode())) + [1] * (len(answer.encode()) + 1)
    return Example(np.array(ids, np.int32), np.array(weights, np.float32))


def encode(samples):
    return [encode_one(sample) for sample in samples]


def encode_one(sample) -> Encoded:
    if isinstance(sample, Document):
        blocks = [sample.text[i : i + 10] for i in range(0, len(sample.text), 10)]
        return Encoded(tuple(example("", block) for block in blocks))
    if isinstance(sample, Preference):
        prompt = sample.prompt.messages[-1].text
        sides = (sample.chosen, sample.rejected)
        return Encoded(tuple(example(prompt, side[-1].text) for side in sides))
    assert isinstance(sample, Conversation)
    if sample.messages[-1].role != "assistant":
        return Encoded(problem="no assistant turn")
    if sample.messages[-1].text == "die":
        os._exit(9)
    if sample.messages[-1].text.startswith("long "):
        return Encoded(problem="99 tokens", policy=sample.messages[-1].text.split()[1])
    prompt = "|".join(message.text for message in sample.messages[:-1])
    return Encoded((example(prompt, sample.messages[-1].text),), truncated=len(prompt) > 50)


@dataclass(frozen=True)
class Encoder:
    """A picklable factory, as compose has one; `log` is told of each call."""

    log: str = ""

    def __call__(self):
        if not self.log:
            return encode

        def logged(samples):
            with open(self.log, "a") as stream:
                stream.write(f"{os.getpid()} {len(samples)}\n")
            return encode(samples)

        return logged


def dataset(tmp_path, lengths, name="shard"):
    """A dataset whose item i has lengths[i] tokens; item i's tokens after the first are i + 3."""
    items = [
        store.Item((Example(np.array([1] + [i + 3] * (n - 1), np.int32), weights(n)),), 0, i + 1)
        for i, n in enumerate(lengths)
    ]
    path = tmp_path / name
    store.write_shard(path, items)
    return store.open_dataset([path], ["f.jsonl"], {"rows": len(items)})


def weights(n: int) -> np.ndarray:
    made = np.ones(n, np.float32)
    made[0] = 0
    return made

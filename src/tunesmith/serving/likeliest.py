"""Log-probabilities of text that is there: prompts that are echoed.

They are those of the model itself, before temperature and cuts, as the engine tells them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.models.reading import Told as Read
from tunesmith.serving.answers import Told
from tunesmith.serving.service import Model, Service


async def read(service: Service, model: Model, ids: Sequence[int], top: int) -> list[Read]:
    """What the model thought of each token but the first."""
    if len(ids) < 2:
        return []
    reader = model.reader
    return await service.engine.call(lambda: reader.logprobs(ids, top))


def of_prompt(ids: Sequence[int], told: Sequence[Read]) -> list[Told]:
    """The tokens of a prompt but the first, as those of an answer are told."""
    return [(id, place.logprob, place.top) for id, place in zip(ids[1:], told, strict=True)]

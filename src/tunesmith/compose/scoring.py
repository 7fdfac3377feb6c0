"""Scores of a reward model: for pairs, conversations and texts, in memory or file to file.

What is scored is encoded as it was for training: the run's template, system prompt, length and rule
to cut by. Rows are scored in fixed chunks of neighbours, so that a score's bits never depend on
where an interrupted scoring went on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import platform
from tunesmith.compose import model, quantising, source
from tunesmith.errors import ExportError
from tunesmith.recipe.sections import ModelConfig, Recipe
from tunesmith.stages import base as stages, feedback_impl
from tunesmith.stages.reward import RewardConfig
from tunesmith.stages.sft import example
from tunesmith.templates import base as templates
from tunesmith.types import Conversation, Document, Encoded, Example, Feedback, Parts

if TYPE_CHECKING:
    from tunesmith.compose.source import Source

BATCH_TOKENS = 4096
"""Examples are laid end to end up to so many tokens."""
DEFAULT_LENGTH = 2048
"""Longest text where neither a run nor the model says."""


@dataclass
class Scorer:
    """A reward model in eval mode, and the stage that encodes and scores as in training."""

    model: Any
    stage: Any
    sha256: str
    """Of its weights."""
    description: str
    padded: bool

    @property
    def parts(self) -> Parts:
        return self.stage.parts

    def encode(self, sample: Conversation | Document) -> Encoded:
        """One example, cut to fit if need be, or why there is none."""
        if isinstance(sample, Document):
            return self._text(sample.text)
        if not any(message.role == "assistant" for message in sample.messages):
            return Encoded(problem="the assistant says nothing that could be scored")
        found = feedback_impl.fitted(Feedback(sample, desirable=True), self.parts)
        if isinstance(found, Encoded):
            return found
        turns, cut = found
        return Encoded((example(turns),), truncated=cut)

    def _text(self, text: str) -> Encoded:
        """Plain text without a template, ended by EOS; its beginning goes where it is too long."""
        import numpy as np

        tokenizer = self.parts.template.tokenizer
        ids = tokenizer.encode_documents([text])[0]
        if tokenizer.eos_id is not None:
            ids = [*ids, tokenizer.eos_id]
        kept = ids[-self.parts.max_length :]
        if not text.strip() or not kept:
            return Encoded(problem="the text is empty")
        made = Example(np.array(kept, np.int32), np.zeros(len(kept), np.float32))
        return Encoded((made,), truncated=len(ids) - len(kept))

    def scores(self, examples: Sequence[Example]) -> list[float]:
        """One number for each example, in order; higher is better."""
        import torch

        from tunesmith.data.collate import collate

        found: list[float] = []
        with torch.no_grad():
            for group in _groups(examples):
                batch = collate(group, padded=self.padded).to(self.model.hf.device)
                found += self.stage.scores(self.model, batch).float().tolist()
        return found


def _groups(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Neighbours of at most `BATCH_TOKENS` tokens, at least one; without weights to train."""
    group: list[Example] = []
    tokens = 0
    for one in examples:
        size = len(one.ids_T)
        if group and tokens + size > BATCH_TOKENS:
            yield group
            group, tokens = [], 0
        group.append(one)
        tokens += size
    if group:
        yield group


def load(
    spec: str,
    *,
    dtype: str = "auto",
    root: str = "runs/",
    say: Callable[[str, str], None] = lambda topic, text: None,
) -> Scorer:
    """Loads a reward model: a run of stage `reward`, its checkpoint (`RUN@step-100`), its final/
    directory, or a sequence classifier of transformers with one label.

    Args:
        spec: What `source.locate` understands.
        dtype: Compute type; auto: what this machine does fastest, but on a CPU float32 for weights
            that are stored in it, as `model.load`.
        root: Where runs are looked for first.
        say: Is told (topic, text) what was chosen.

    Raises:
        EnvironmentFault: E201, no such model; E206, weights are missing.
        ExportError: X310, it is no reward model; X311, a head of another shape.
    """
    platform.prepare()
    found = source.locate(spec, root)
    if not found.scores:
        raise ExportError(
            "X310",
            f"`{spec}` is no reward model: it has no score head",
            fix="name a run of stage reward, or a sequence classifier with one label",
        )
    import torch

    from tunesmith.models import load as loading
    from tunesmith.models.language_model import LanguageModel

    compute, device = model.compute_type(dtype, found), platform.device()
    recipe, config = _recipe(found), ModelConfig(path=found.base)
    directory = tokenizer_dir(found)
    hf = _language_model(found, config, recipe, compute, device)
    parts = _parts(found, directory, recipe, model.Origin(found, directory, ""), say)
    stage: Any = stages.build(RewardConfig(), parts)
    stage.score = _head(found, hf)
    wrapped = LanguageModel(
        hf, attention="sdpa", kernels="eager", compute_dtype=getattr(torch, compute)
    )
    wrapped.eval()
    top = found.checkpoint or found.top or found.base
    say("model", f"{spec} → {top}  {loading.describe(hf)}  {compute} on {device}")
    say("reads", f"template {parts.template.name}, at most {parts.max_length:,} tokens")
    padded = not loading.packable(hf.config)
    return Scorer(wrapped, stage, source.content_hash(found), str(top), padded)


def _recipe(found: Source) -> Recipe | None:
    """The recipe of the run that made the model; None of a directory that stands by itself."""
    from tunesmith import recipe as recipes

    if found.checkpoint is not None:
        return model.run_recipe(found.checkpoint)
    top = found.top
    path = top.parent / "resolved.yaml" if top is not None and top.name == "final" else None
    return recipes.load(str(path), environ={}) if path is not None and path.is_file() else None


def tokenizer_dir(found: Source) -> Path:
    """Where the tokenizer of a reward model is."""
    recipe = _recipe(found)
    if found.checkpoint is not None and recipe is not None:
        return model.origin(recipe).tokenizer_dir
    return model.tokenizer_dir(ModelConfig(path=found.base), found)


def _language_model(
    found: Source, config: ModelConfig, recipe: Recipe | None, dtype: str, device: Any
) -> Any:
    """The backbone, adapters merged."""
    import torch

    from tunesmith.models import classifier, load as loading

    if not found.adapters and found.checkpoint is None and found.base:
        directory = loading.resolve(found.base)[0]
        if classifier.is_classifier(directory):
            return classifier.backbone(directory, dtype=getattr(torch, dtype), device=device)
    if not found.base and recipe is not None:  # from scratch: the checkpoint holds all weights
        config = recipe.model
    few_bits = quantising.chosen(None, found, recipe)
    config = dataclasses.replace(config, quantize=few_bits)
    start = model.Origin(found, Path(found.base), "")
    # nothing is written that a merge would have to equal, so nothing is rounded
    return model.weights(start, config, dtype=dtype, device=device, seed=0, as_stored=False)


def _head(found: Source, hf: Any) -> Any:
    """The score head, in float32 or wider."""
    import torch

    from tunesmith.models import classifier

    width = hf.config.get_text_config().hidden_size
    wide = torch.promote_types(hf.dtype, torch.float32)
    if found.checkpoint is None:
        directory = found.top or Path(found.base)
        return classifier.read_head(directory, width, dtype=wide, device=hf.device)
    from tunesmith.training import checkpoint

    tensors = checkpoint.Checkpoint(found.checkpoint).weights()
    head = classifier.head_of(tensors, width, str(found.checkpoint))
    return head.to(device=hf.device, dtype=wide)


def _parts(
    found: Source, directory: Path, recipe: Recipe | None, origin: Any, say: Callable
) -> Parts:
    """How a text is encoded: as the run did; else with the model's own template."""
    if recipe is not None:
        data = recipe.data
        name, system, longest = data.template, data.system, data.max_length
        limits = (data.max_prompt_length, data.max_answer_length, data.truncation)
    else:
        name, system, longest = "auto", found.card().get("system"), DEFAULT_LENGTH
        limits = (None, None, "newest_rounds")
    described = recipe.model if recipe else ModelConfig()
    context = model.context_length(origin, described) if found.base else None
    if context is not None and (recipe is None or context < longest):
        longest = context
    template = templates.load(name, directory)
    for note in template.notes:
        say("note", note)
    first = Parts(template, longest, "truncate", system)
    prompt, answer, rule = limits
    return dataclasses.replace(
        first, max_prompt_length=prompt, max_answer_length=answer, truncation=rule
    )

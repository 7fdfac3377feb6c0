"""Distillation: a student learns the whole next-token distribution of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import ConfigError
from tunesmith.stages.base import Plain
from tunesmith.stages.columns_impl import within
from tunesmith.stages.sft import SftConfig, SftStage
from tunesmith.types import Batch, Conversation, Encoded, Loss, Parts, Run, Step, Term

if TYPE_CHECKING:
    from tunesmith.models.language_model import LanguageModel


@dataclass(frozen=True)
class DistillConfig:
    """Match a teacher at every trained token, of the data's answers or of the student's own (GKD,
    arXiv:2306.13649)."""

    kind: Literal["distill"] = "distill"
    """The stage's name."""
    teacher: str = ""
    """The model to learn from: a directory, run:…, builtin:… or hub id, of the same tokenizer."""
    beta: float = 0.5
    """Which divergence: 0 is the forward KL, 1 the reverse KL, between them Jensen–Shannon."""
    temperature: float = 1.0
    """Divides the logits of both models; above 1 shows more of what the teacher finds unlikely."""
    lmbda: float = 0.0
    """Share of the steps that train on answers the student samples itself."""
    max_completion_length: int = 256
    """Longest answer that the student samples, in tokens."""
    train_on: Literal["all_turns", "last_turn", "with_prompt"] = "all_turns"
    """Trained tokens of the data's conversations, as in sft."""


class DistillStage(Plain):
    """The teacher is a frozen model beside the one in training."""

    Config = DistillConfig
    sample = (Conversation,)

    def __init__(self, config: DistillConfig, parts: Parts):
        super().__init__(config, parts)
        self._encoder = SftStage.build(SftConfig(train_on=config.train_on), parts)
        self.teacher: LanguageModel | None = None

    def check(self, recipe: Any) -> None:
        """Refuses numbers that make no sense, and a missing teacher.

        Raises:
            ConfigError: C227; C230, no teacher is named.
        """
        config = self.config
        if not config.teacher:
            raise ConfigError(
                "C230", "no teacher is named", where="stage.teacher", fix="stage.teacher=DIRECTORY"
            )
        within("beta", config.beta, 0 <= config.beta <= 1, "0 to 1")
        within("lmbda", config.lmbda, 0 <= config.lmbda <= 1, "0 to 1")
        within("temperature", config.temperature, config.temperature > 0, "above 0")
        longest = config.max_completion_length
        within("max_completion_length", longest, longest >= 1, "at least 1")

    def prepare(self, run: Run, say: Callable[[str], None]) -> None:
        """Loads the teacher.

        Raises:
            ConfigError: C231, it reads other tokens than the student.
        """
        made = run.teacher(self.config.teacher)
        student: Any = run.model
        sizes = [one.head().weight_VD.shape[0] for one in (made.model, student)]
        if made.tokenizer.hash != self.template.tokenizer.hash or sizes[0] != sizes[1]:
            raise ConfigError(
                "C231",
                f"the teacher {self.config.teacher} reads other tokens than the student",
                where="stage.teacher",
                why=f"rows of the heads: {sizes[0]:,} and {sizes[1]:,}",
                fix="choose a teacher of the same tokenizer",
            )
        self.teacher = made.model.requires_grad_(False).eval()
        say(f"teacher: {made.description}, a second model in memory")

    def encode(self, samples: Sequence[Conversation]) -> list[Encoded]:
        return self._encoder.encode(samples)

    def steps(self, run: Run) -> Iterator[Step]:
        if not self.config.lmbda:
            yield from run.loader.steps(run.step, run.total_steps)
            return
        for step in range(run.step, run.total_steps):
            yield self._own_answers(run, step) if self._is_own(run, step) else run.loader.step(step)

    def _is_own(self, run: Run, step: int) -> bool:
        """Whether a step trains on the student's answers: a function of seed and step."""
        from tunesmith.stages.experience_impl import seed_of

        drawn = seed_of(run.recipe.train.seed, f"whose/{step}") / 2**56
        return drawn < self.config.lmbda

    def _own_answers(self, run: Run, step: int) -> Step:
        """The step's prompts with answers sampled now."""
        from tunesmith.data.collate import collate_items
        from tunesmith.stages import experience_impl as experience
        from tunesmith.stages.passes_impl import passes

        config, batches = self.config, []
        asking = experience.Asking(
            run.generator, self.template, config.max_completion_length, 1.0, run.recipe.train.seed
        )
        for micro, rows in enumerate(run.loader.micro_rows(step)):
            examples = [run.loader.dataset[row][-1] for row in rows]
            keys = [f"{step}/{micro}/{place}" for place in range(len(rows))]
            groups = experience.sample(asking, examples, keys, 1)
            items = [tuple(one.example for one in group) for group in groups]
            batches += [
                collate_items([items[place] for place in part], padded=run.loader.padded)
                for part in passes([list(range(len(items)))], items, run.loader)
            ]
        return batches

    def loss(self, model: Any, batch: Batch) -> Loss:
        import torch

        from tunesmith.losses import distill
        from tunesmith.models.language_model import predecessors

        assert self.teacher is not None, "prepare loads the teacher"
        weights = batch.weights_BT.reshape(-1)
        position_S = weights.nonzero()[:, 0]
        before_S = predecessors(batch.segments, position_S)
        student_SD = model.hidden_at(batch, before_S)
        with torch.no_grad():
            teacher_SE = self.teacher.hidden_at(batch, before_S)
        found_S = distill.divergence(
            student_SD, model.head(), teacher_SE, self.teacher.head(),
            beta=self.config.beta, temperature=self.config.temperature,
        )  # fmt: skip
        weighted_S = weights[position_S].to(found_S.dtype) * found_S
        return Loss({"divergence": Term(weighted_S.sum(), "tokens")}, {})

"""The nouns of the house: samples, examples, batches, losses, requests, and what parts promise.

Shape legend: `B` rows, `T` tokens, `S` supervised positions, `V` vocabulary, `D` model width.
This module imports no torch: a recipe, a data file and a `--help` must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.optim import Optimizer

# ---------------------------------------------------------------- samples: what a row means

Role = Literal["system", "user", "assistant", "tool"]
Truncation = Literal[
    "newest_rounds", "newest_rounds_head", "oldest_rounds", "cut_end", "cut_prompt_start",
    "cut_prompt_end", "cut_prompt_middle",
]  # fmt: skip
"""What stays of a conversation that is too long; `templates.truncate` has the rules."""


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """Reasoning that the template may show or strip."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant makes; `arguments` is JSON text."""

    name: str
    arguments: str
    id: str = ""


Part = Text | Thinking | ToolCall


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `weight` None: the stage decides whether its tokens are trained."""

    role: Role
    parts: tuple[Part, ...]
    weight: float | None = None
    name: str = ""
    """Who speaks within the role: the tool that answers, a participant."""
    tool_call_id: str = ""
    """The call that a tool answers."""

    @classmethod
    def of(cls, role: Role, text: str, weight: float | None = None) -> Message:
        return cls(role, (Text(text),), weight)

    @property
    def text(self) -> str:
        """The text parts, joined; thinking and tool calls left out."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """Two continuations of one prompt, the better first."""

    prompt: Conversation
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float = 0.0
    """By how much the better one is better, as a difference of scores; reward models ask for it."""


@dataclass(frozen=True, slots=True)
class Feedback:
    conversation: Conversation
    desirable: bool


@dataclass(frozen=True, slots=True)
class Document:
    text: str


Sample = Document | Conversation | Preference | Feedback

# ---------------------------------------------------------------- examples: what is trained


class Example(NamedTuple):
    """Token ids and, for each, its weight as a TARGET predicted from its predecessor.

    `weights_T[0]` is 0: the first token of a segment has no predecessor.
    """

    ids_T: np.ndarray
    """int32, shape (T,)."""
    weights_T: np.ndarray
    """float32, shape (T,)."""


class Encoded(NamedTuple):
    """What a stage made of one sample: examples, or the reason why there are none."""

    examples: tuple[Example, ...] = ()
    truncated: int = 0
    """Tokens that the length policy cut away."""
    cut_answer: bool = False
    """Whether trained tokens are among them: the end of an answer, or a whole one."""
    problem: str = ""
    """Empty, or why this row can't be trained (shown to the user with file and line)."""
    policy: Literal["row", "skip", "error"] = "row"
    """What a problem does: as data.on_bad_row says, leave out and list, or stop."""
    gaps: Callable[[], Sequence[Mapping[int, int]]] | None = None
    """Computes, for each example, how many tokens were cut away in front of which of its tokens
    (in front of its length: at its end); None: nothing was cut."""


@dataclass(slots=True)
class Segments:
    """Segments of a batch laid end to end: a segment sees itself causally, and its ancestors."""

    start_G: np.ndarray
    """int32, first flat position (row · T + column) of each segment."""
    length_G: np.ndarray
    """int32, tokens of each segment."""
    parent_G: np.ndarray
    """int32, index of the segment whose tokens this one continues (a shared prompt), or -1."""
    context_G: np.ndarray
    """int32, how many first tokens see each other both ways (a prefix-LM's prefix); usually 0."""


@dataclass(slots=True)
class Batch:
    """One micro-batch. Padding-free by default: B = 1, examples laid end to end."""

    ids_BT: Tensor
    weights_BT: Tensor
    positions_BT: Tensor
    segments: Segments
    units: dict[str, float]
    """Summands of the global denominators: {"tokens": Σ weights, …}; 0 for a filler batch."""
    extra: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: Any) -> Batch:
        move = lambda t: t.to(device, non_blocking=True)
        extra = {name: move(tensor) for name, tensor in self.extra.items()}
        tensors = move(self.ids_BT), move(self.weights_BT), move(self.positions_BT)
        return Batch(*tensors, self.segments, self.units, extra)


Step = list[Batch]
"""The micro-batches of one update; every rank yields the same number."""


class Term(NamedTuple):
    """A sum over `unit`s; the loop divides it by the global count of that unit."""

    sum: Tensor
    unit: str
    coef: float = 1.0


class Loss(NamedTuple):
    """Sums, never means. `terms` are trained; `metrics` only logged (each a Term of its own)."""

    terms: dict[str, Term]
    metrics: dict[str, Term]
    rows: Callable[[], dict[str, Any]] | None = None
    """Values of the single rows of the batch by name, in order (tensors or sequences, one each);
    only `tunesmith eval` asks for them."""


class TokenLogprobs(NamedTuple):
    """Log-probabilities at supervised positions (weight ≠ 0), in batch order."""

    logprobs_S: Tensor
    weights_S: Tensor
    segment_S: Tensor
    """int64, index of the segment each position lies in."""
    correct_S: Tensor
    """bool, whether the target was the most likely token."""


# ---------------------------------------------------------------- generation


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens; `temperature` 0 is greedy."""

    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    """Locally typical sampling (Meister et al., 2202.00666); 1: off."""
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token the answer holds already (OpenAI's meaning)."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token for each time the answer holds it already."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, added to its logit), before anything else is done to the logits."""
    logprob: bool = True
    """Whether each event tells its token's log-probability; it takes time, and a greedy answer on
    a CPU is faster without."""
    top_logprobs: int = 0
    """So many likeliest tokens are told with each event."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Stop strings, matched on decoded text."""
    stop_ids: tuple[int, ...] = ()
    """Stop tokens (the template's end markers and the tokenizer's EOS)."""


@dataclass(frozen=True, slots=True)
class Request:
    id: str
    ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    adapter: str | None = None
    constraint: Any = None


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one request. `finish_reason`: None, "stop", "length", "cancelled", "error"."""

    id: str
    token: int
    logprob: float | None
    """Of the model's own distribution; None if nobody asked, or the engine can't tell."""
    text_delta: str
    finish_reason: str | None = None
    top: tuple[tuple[int, float], ...] = ()
    """(token, log-probability) of the likeliest tokens here, if `top_logprobs` asked for them."""


# ---------------------------------------------------------------- what parts promise (ADR 0003)


class Parallel(Protocol):
    """Owns everything a backend may do differently; the loop has no `if deepspeed`."""

    rank: int
    world: int
    device: Any

    def wrap(self, model: nn.Module) -> nn.Module: ...
    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[None]: ...
    def backward(self, loss: Tensor) -> None: ...
    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor: ...
    def step(self, optimizer: Optimizer) -> None: ...
    def sum(self, values: Mapping[str, float]) -> dict[str, float]: ...
    def barrier(self) -> None: ...


class Tuner(Protocol):
    """Decides which parameters are trained, and how they are saved and merged."""

    Config: type
    packable: bool
    mergeable: bool

    @classmethod
    def build(cls, config: Any) -> Tuner: ...
    def apply(self, model: nn.Module) -> None: ...
    def load(self, model: nn.Module, path: Path) -> None: ...
    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]: ...
    def reference(self, model: nn.Module) -> AbstractContextManager[None]: ...
    def save(self, model: nn.Module, path: Path) -> None: ...
    def merge(self, model: nn.Module) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What compose hands to a stage."""

    template: Any
    """templates.base.Template: renders and tokenises samples."""
    max_length: int
    on_overlength: Literal["truncate", "skip", "error"]
    system: str | None = None
    seed: int = 0
    max_prompt_length: int | None = None
    max_answer_length: int | None = None
    truncation: Truncation = "newest_rounds"


class Stage(Protocol):
    """What is trained: how a sample becomes examples, and what loss they have."""

    Config: type
    sample: tuple[type, ...]
    """The sample types this stage trains on."""
    template: Any
    """The template (and tokenizer) its examples are made with; final/ carries it."""

    @classmethod
    def build(cls, config: Any, parts: Parts) -> Stage: ...
    def check(self, recipe: Any) -> None: ...
    def equip(self, hf: nn.Module) -> None:
        """Makes the modules that are trained beside a transformers model (a head)."""
        ...

    def modules(self) -> dict[str, nn.Module]: ...
    def prepare(self, run: Run, say: Callable[[str], None]) -> None:
        """What must be computed with the weights the run began with; called before a resumed run
        takes its weights back."""
        ...

    def arrange(self, loader: Any) -> Any:
        """The loader as this stage visits it; most take its steps one after another."""
        ...

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]: ...
    def steps(self, run: Run) -> Iterator[Step]: ...
    def save(self, hf: nn.Module, path: Path) -> None:
        """Adds the stage's modules to what the tuner saved."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Loss: ...
    def evaluation_steps(self, run: Run, loader: Any) -> Iterator[Step]:
        """All evaluation data once, in order, with what spans its batches computed."""
        ...

    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...
    def remarks(self) -> list[str]:
        """What is said of the training once it has ended."""
        ...


class Generator(Protocol):
    """Continuous decoding; `generate` is a loop over submit and step."""

    def submit(self, request: Request) -> None: ...
    def cancel(self, id: str) -> None: ...
    def step(self) -> list[Event]: ...
    def generate(self, requests: Iterable[Request]) -> dict[str, list[Event]]: ...


class Run(Protocol):
    """What a stage and the loop see of the run in hand; compose builds it, with its services."""

    recipe: Any
    stage: Stage
    model: nn.Module
    parallel: Parallel
    tuner: Tuner
    loader: Any
    step: int
    total_steps: int
    evaluate: Callable[[], dict[str, float]]
    generator: Generator | None
    scorer: Callable[[str], Callable] | None
    teacher: Any
    """Loads a language model by name."""
    directory: Any
    """The run's directory, which keeps its events."""

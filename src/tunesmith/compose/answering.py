"""What keeps an answer within a form: a JSON schema, calls of tools as the template writes them, or
one of the two.

Grammars and their masks are made once for each form that is asked for and kept for those who ask
for it again; a form is tried out before its first use, in the thread that makes it, so that the
engine's thread finds the masks it needs most.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.compose.rules import Begun, Form, Marked, Rule
from tunesmith.errors import ConfigError, RunError
from tunesmith.rundir import lock

if TYPE_CHECKING:
    from tunesmith.generation.grammar_impl import Trie

GUESSES = 4
"""Tokens that a draft guesses at a time, if nothing is said."""
KEPT = 32
"""Forms that are kept, the least used go first."""
KEPT_BYTES = 256 * 2**20
"""Masks of all of them, likewise."""
MASK_BYTES = 64 * 2**20
"""Masks of one form beyond this are made anew with the next request for it."""


@dataclass(frozen=True)
class CallShape:
    """How a template writes calls.

    Attributes:
        opening: Text before the first call's JSON object.
        marker: A control token before that text.
        arguments: The key of the arguments.
        between: What stands between two calls; None: the template has no second one.
        closing: Text after the last call.
    """

    opening: str = ""
    marker: int | None = None
    arguments: str = "arguments"
    between: str | None = None
    closing: str = ""


@dataclass(frozen=True)
class Wanted:
    """Calls of these functions: OpenAI's `{"name", "parameters", "strict"}`.

    Attributes:
        several: Whether more than one call may be made.
        forced: Whether there must be a call; otherwise the answer may be text.
        form: The schema of an answer without calls, in a tuple; empty: any text.
    """

    functions: tuple[Mapping[str, Any], ...]
    several: bool = True
    forced: bool = False
    form: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Engine:
    """What computes the answers: an engine by its name, and how far back it looks."""

    kind: str = "torch"
    sinks: int | None = None
    """First tokens that are always kept; None: four, if there is a window."""
    window: int | None = None
    """Last tokens that are kept beside them; None: all."""

    lookup: int | None = None
    """Tokens guessed from what was said before; None: none."""
    draft: str | None = None
    """A small model that guesses instead."""

    def options(self) -> dict[str, Any]:
        """What an engine is made with, as far as it was given; the draft is loaded by
        `engine_over`."""
        found: dict[str, Any] = {}
        if self.window is not None:
            found["window"] = self.window if self.sinks is None else (self.sinks, self.window)
        if self.lookup is not None or self.draft is not None:
            found["speculate"] = self.lookup or GUESSES
        return found


PLAIN = Engine()
"""The engine that answers if nothing is said."""


def answering(spec: str, root: str = "runs/") -> tuple[str, tuple[str, ...]]:
    """Who answers for a name: the model itself, or the base of a run that has saved nothing yet.

    Returns:
        The model's name, and what is to be said about it.

    Raises:
        RunError: R107, the run has saved nothing and was to make a model from scratch.
    """
    from tunesmith.compose import source

    path = Path(spec).expanduser()
    if spec.startswith("builtin:") or (path.is_dir() and not (path / "run.json").is_file()):
        return spec, ()
    found = source.find_run(spec.removeprefix("run:"), root)
    if found is None or found[1] is not None:
        return spec, ()
    run = found[0]
    try:
        there = run.model_path().name
        if lock.is_held(run.path):
            return spec, (f"{run.id} is still training: {there}, the best it has saved, answers",)
    except RunError as error:
        recorded = run.info().get("base")
        if error.code != "R107" or recorded is None:
            raise
        base = source.existing_base(recorded, run.path)
        state = "is still training and has" if lock.is_held(run.path) else "has"
        return base, (f"{run.id} {state} neither final/ nor a checkpoint yet: its base answers",)
    return spec, ()


def engine_over(
    engine: Engine, loaded: Any, *, dtype: str = "auto", **options: Any
) -> tuple[Any, tuple[str, ...]]:
    """A generator over a loaded model, its draft loaded beside it.

    Args:
        engine: What is asked for.
        loaded: A model of `compose.load`.
        dtype: Compute type of the draft.
        options: More that the generator is made with.

    Returns:
        The generator, and what is to be said about its guesses.

    Raises:
        ConfigError: G131, the draft has another tokenizer; G132, the model's family can't check
            guesses, or the draft's can't make them.
        EnvironmentFault: E201, E212: no such draft, or a reward model.
    """
    from tunesmith.generation import base
    from tunesmith.models.load import packable

    given = {**engine.options(), **options}
    said: tuple[str, ...] = ()
    if engine.lookup is not None or engine.draft is not None:
        _check_family(loaded, packable, "the model")
    if engine.draft is not None:
        from tunesmith.compose import model as models

        draft = models.load(engine.draft, dtype=dtype)
        _check_family(draft, packable, "the draft")
        if draft.tokenizer.rust.get_vocab(True) != loaded.tokenizer.rust.get_vocab(True):
            raise ConfigError(
                "G131",
                f"the draft {engine.draft} has another tokenizer than the model",
                where="--draft",
                why="Guesses are token ids, which must mean the same to both.",
                fix="use a smaller model of the same family, or --lookup",
            )
        given["draft"] = draft.model
        said = (f"draft: {draft.description} guesses {given['speculate']} tokens ahead",)
    elif engine.lookup is not None:
        said = (f"up to {engine.lookup} tokens are guessed from the text so far",)
    if said and str(loaded.model.hf.dtype) != "torch.float32":
        # One pass over several tokens rounds otherwise than one over one.
        said = (*said, "answers are exactly those without guesses in float32 (--dtype float32)")
    return base.build(engine.kind, loaded.model, loaded.tokenizer, **given), said


def _check_family(loaded: Any, packable: Callable[[Any], bool], which: str) -> None:
    config = loaded.model.hf.config
    if not packable(config):
        raise ConfigError(
            "G132",
            f"{which} can't take part in guessing",
            where="--lookup, --draft",
            why=f"The family {config.model_type} has no attention interface.",
            fix="leave the option out",
        )


class Forms:
    """Makes constraints for a model's answers.

    Args:
        tokenizer: The model's.
        stops: Tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[int]):
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self._spelled: tuple[list[bytes | None], Trie] | None = None
        self._kept: OrderedDict[str, Form] = OrderedDict()
        self._lock = threading.Lock()

    def json(self, schema: Any) -> Callable[[], Rule]:
        """Answers within a JSON schema; None: any object. What is returned makes one rule a
        request.

        Raises:
            ConfigError: G124, this tokenizer's answers can't be constrained; G126, the schema.
        """
        from tunesmith.generation import schema_impl

        form = self._form(["json", schema], lambda: schema_impl.grammar(schema))
        return lambda: Rule(form)

    def calls(self, shape: CallShape, wanted: Wanted) -> Callable[[], Rule]:
        """Answers that call tools, as far as `wanted` says.

        Raises:
            ConfigError: G124, G126: see `json`; a schema of parameters counts if it is strict.
        """
        from tunesmith.generation import grammar_impl as g, schema_impl

        several = wanted.several and shape.between is not None
        told = [dict(f) for f in wanted.functions]
        key = [told, several, shape.opening, shape.between, shape.closing, shape.arguments]
        other = [schema_impl.grammar(schema) for schema in wanted.form]

        def calls(opening: str) -> Any:
            return g.Series((schema_impl.SPACE, g.text(opening), _calls(shape, told, several)))

        if wanted.forced or other:
            free = [] if wanted.forced else other
            if shape.marker is None:
                asked = ["forced", key, [] if wanted.forced else list(wanted.form)]
                form = self._form(asked, lambda: _either([calls(shape.opening), *free]))
                return lambda: Rule(form)
            after = self._form(["forced", key, []], lambda: calls(shape.opening))
            beside = self._form(["json", *wanted.form], lambda: free[0]) if free else None
            return lambda: Marked(after, int(shape.marker or 0), beside)
        # The model decides; from where it begins a call it is held to the form.
        begins = shape.opening.strip()
        rest = self._form(["after", key], lambda: calls("" if shape.marker is None else begins))
        spelled, _ = self.spelled()
        return lambda: Begun(rest, shape.marker, begins, self.tokenizer, spelled)

    def spelled(self) -> tuple[list[bytes | None], Trie]:
        """What each token spells, found once.

        Raises:
            ConfigError: G124.
        """
        from tunesmith.generation import constraints_impl
        from tunesmith.generation.grammar_impl import Trie

        if not self.stops:
            why = "Nothing else could end the answer."
            raise ConfigError("G124", "a constraint needs a stop token", why=why)
        with self._lock:
            if self._spelled is None:
                spelled = constraints_impl.spellings(self.tokenizer)
                self._spelled = spelled, Trie.of(spelled)
            return self._spelled

    def _form(self, asked: Any, grammar: Callable[[], Any]) -> Form:
        from tunesmith.generation.grammar_impl import Constraint

        key = json.dumps(asked)  # in the order given: properties are written in it
        with self._lock:
            found = self._kept.get(key)
            if found is not None and found.bytes < MASK_BYTES:
                self._kept.move_to_end(key)
                return found
        spelled, trie = self.spelled()
        made = Form(Constraint(grammar(), spelled, trie, self.stops))
        made.try_out(spelled, self.stops)
        with self._lock:
            self._kept[key] = made
            held = sum(form.bytes for form in self._kept.values())
            while len(self._kept) > 1 and (len(self._kept) > KEPT or held > KEPT_BYTES):
                held -= self._kept.popitem(last=False)[1].bytes
        return made


def _either(options: Sequence[Any]) -> Any:
    from tunesmith.generation.grammar_impl import Choice

    return options[0] if len(options) == 1 else Choice(tuple(options))


def _calls(shape: CallShape, functions: Sequence[Mapping[str, Any]], several: bool) -> Any:
    """One call, or as many as the model likes, and what the template writes after them."""
    from tunesmith.generation.grammar_impl import Repeat, Series, text

    call = _either([_call(shape.arguments, function) for function in functions])
    more = Repeat(Series((text(shape.between or ""), call))) if several else Series(())
    return Series((call, more, text(shape.closing)))


def _call(arguments: str, function: Mapping[str, Any]) -> Any:
    """`{"name": …, "arguments": …}` of one function.

    Raises:
        ConfigError: G126, its schema is strict and not supported.
    """
    from tunesmith.generation.grammar_impl import Series, text
    from tunesmith.generation.schema_impl import SPACE, grammar

    try:
        said = grammar({**(function.get("parameters") or {}), "type": "object"})
    except ConfigError:
        if function.get("strict"):
            raise
        said = grammar(None)  # arguments are an object, whatever it holds
    name = json.dumps(function["name"], ensure_ascii=False)
    parts = ("{", SPACE, '"name":', SPACE, f"{name},", SPACE, f'"{arguments}":', said, SPACE, "}")
    return Series(tuple(text(part) if isinstance(part, str) else part for part in parts))

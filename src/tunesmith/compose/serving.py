"""Models as a server offers them: the one that was named, its adapters, or a reward model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tunesmith.compose import gguf, graph, model as models, quantising, scoring, source
from tunesmith.compose.answering import PLAIN, Engine, Forms, answering, engine_over
from tunesmith.compose.quantising import Quantize
from tunesmith.compose.sampling import defaults, numbers
from tunesmith.errors import ConfigError, ServeError
from tunesmith.recipe.sections import ModelConfig
from tunesmith.templates import base as templates
from tunesmith.types import Generator, Sampling

if TYPE_CHECKING:
    from tunesmith.models.reading import Reader


@dataclass(frozen=True)
class Offer:
    """One model that clients can name.

    Attributes:
        generator: What writes; None for a reward model.
        adapter: What a request names so that its engine uses these weights.
        reader: What embeds, scores and gives log-probabilities of given text; None: nothing does.
        defaults: How it samples where a request doesn't say.
        context: Tokens its positions reach, prompt and answer together; None: no limit.
        forms: Makes constraints for `response_format` and tools; None: the engine has none.
        notes: What a user should know about how it is served.
    """

    name: str
    template: Any
    system: str | None
    generator: Generator | None
    reader: Reader | None
    defaults: Sampling
    context: int | None
    description: str
    adapter: str | None = None
    forms: Forms | None = None
    notes: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Any:
        return self.template.tokenizer

    @property
    def scores(self) -> bool:
        return self.reader is not None and self.reader.head is not None


def offers(
    spec: str,
    name: str,
    adapters: Mapping[str, str],
    *,
    slots: int,
    dtype: str = "auto",
    engine: Engine = PLAIN,
    quantize: Quantize | None = None,
) -> list[Offer]:
    """The model and its adapters, in memory; the model first.

    Args:
        spec: What `source.locate` understands.
        name: How clients call the model.
        adapters: Name → run or adapter folder, trained on this model.
        slots: Requests answered at once.
        dtype: Compute type; auto: what this machine does fastest.
        quantize: Few bits for the weights; None: as the model was trained.
        engine: What computes; not for files, which llama.cpp runs, nor for reward models.

    Raises:
        ServeError: S104, an adapter was trained on another model, or the model is a reward model.
        ConfigError: G150, a reward model was to have an engine; G160, G161, see `TorchGenerator`.
        EnvironmentFault: E201, no such model.
    """
    if gguf.named(spec):
        quantising.refuse_file(spec, quantize)
        return [_of_file(spec, name, adapters, slots)]
    if graph.named(spec):
        graph.refuse(spec, {"quantize": quantize, "dtype": dtype, **_asked(engine)})
        return [_of_file(spec, name, adapters, slots)]
    spec, said = answering(spec)
    found = source.locate(spec)
    if found.scores and adapters:
        raise ServeError(
            "S104",
            f"`{spec}` is a reward model, which has no adapters of its own",
            where="--adapter",
            fix="serve each reward model by itself",
        )
    if found.scores and engine != PLAIN:
        what = f"`{spec}` is a reward model, which no engine writes with"
        fix = "leave out --engine and --window"
        raise ConfigError("G150", what, where="--engine", fix=fix)
    if found.scores:
        quantising.refuse_file(spec, quantize)
        return [_scorer(spec, name, dtype)]
    tuned = {label: source.language_model(path) for label, path in adapters.items()}
    for label, adapter in tuned.items():
        _check_base(found, label, adapter)
    writer = functools.partial(_writer, slots=slots, dtype=dtype, engine=engine, quantize=quantize)
    first = writer(spec, name)
    first = dataclasses.replace(first, notes=(*said, *first.notes))
    made = [first]
    for label, adapter in tuned.items():
        beside = _beside(first, len(found.adapters), label, adapter)
        made.append(beside or _alone(writer(adapters[label], label)))
    return made


def _alone(offer: Offer) -> Offer:
    note = "not a plain LoRA on this base: merged, a model of its own in memory"
    return dataclasses.replace(offer, notes=(*offer.notes, note))


def _beside(first: Offer, under: int, label: str, adapter: source.Source) -> Offer | None:
    """An adapter in the engine of its base, in one batch with others; None if it can't be there.

    Args:
        first: The base.
        under: Adapters that the base has merged already.
        label: What clients call it.
        adapter: Trained on the base.
    """
    from tunesmith.generation.adapters_impl import deltas_of
    from tunesmith.models.reading import Reader
    from tunesmith.tuners import prompt_impl

    if adapter.checkpoint is not None or len(adapter.adapters) != under + 1:
        return None
    folder, engine, model = (
        adapter.adapters[-1],
        first.generator,
        first.reader and first.reader.model,
    )
    directory = models.tokenizer_dir(ModelConfig(path=adapter.base), adapter)
    template = templates.load("auto", directory)
    if template.tokenizer.hash != first.tokenizer.hash or model is None:
        return None
    plain = defaults(template, folder)
    reader, context = None, first.context
    try:
        if prompt_impl.kind_of(folder) is not None:
            cast(Any, engine).add_adapter(label, folder)
            context = context and context - len(prompt_impl.read(folder))
        else:
            deltas = deltas_of(folder)
            if "lm_head" in deltas:  # the reader takes the head as it is
                return None
            cast(Any, engine).add_adapter(label, deltas)
            reader = Reader(model, deltas=deltas)
    except ConfigError:  # DoRA, whole modules, a family without the interface
        return None
    return dataclasses.replace(
        first,
        name=label,
        template=template,
        system=adapter.card().get("system"),
        reader=reader,
        defaults=plain,
        context=context,
        description=f"{adapter.spec} → {folder} (beside its base)",
        adapter=label,
        forms=Forms(template.tokenizer, plain.stop_ids),
        notes=(*template.notes, *_other_bits(model, adapter)),
    )


def _other_bits(model: Any, adapter: source.Source) -> tuple[str, ...]:
    """What there is to say of an adapter that was trained beside other bits than it is served."""
    from tunesmith.models import quantised

    layers = list(quantised.layers(model.hf).values())
    served = layers[0].bits if layers else None
    trained = (adapter.card().get("quantize") or {}).get("bits")
    if served == trained:
        return ()
    told = {
        bits: f"weights in {bits} bits" if bits else "whole weights" for bits in (served, trained)
    }
    return (f"it was trained beside {told[trained]} and answers beside {told[served]}",)


def _check_base(model: source.Source, label: str, adapter: source.Source) -> None:
    under = adapter.adapters if adapter.checkpoint is not None else adapter.adapters[:-1]
    base = source.Source(adapter.spec, adapter.base, under)
    whole = source.Source(model.spec, model.base, model.adapters, model.checkpoint)
    tuned = adapter.checkpoint is not None or bool(adapter.adapters)
    if tuned and source.content_hash(base) == source.content_hash(whole):
        return
    raise ServeError(
        "S104",
        f"the adapter `{label}` was not trained on {model.spec}",
        where=f"--adapter {label}={adapter.spec}",
        fix="serve it as a model of its own",
    )


def _writer(
    spec: str,
    name: str,
    *,
    slots: int,
    dtype: str,
    engine: Engine,
    quantize: Quantize | None,
) -> Offer:
    from tunesmith.models.reading import Reader
    from tunesmith.models.soft import soft_of

    loaded = models.load(spec, dtype=dtype, quantize=quantize)
    generator, said = engine_over(engine, loaded, dtype=dtype, max_rows=slots)
    plain = defaults(loaded.template, loaded.path)
    virtual, context = soft_of(loaded.model.hf), generator.context
    return Offer(
        name,
        loaded.template,
        loaded.system,
        generator,
        Reader(loaded.model) if virtual is None else None,
        plain,
        context and context - virtual.tokens if virtual else context,
        loaded.description,
        forms=Forms(loaded.tokenizer, plain.stop_ids),
        notes=(*loaded.template.notes, *numbers(loaded.model), *said, *generator.notes),
    )


def _of_file(spec: str, name: str, adapters: Mapping[str, str], slots: int) -> Offer:
    """A GGUF file or an exported graph, which writes and does nothing else."""
    exported = graph.named(spec)
    if adapters:
        what = "an exported graph" if exported else "a GGUF file"
        raise ServeError(
            "S104", f"{what} is served without adapters", where="--adapter",
            fix="serve the weights it was made of",
        )  # fmt: skip
    opened = graph.load(spec) if exported else gguf.load(spec, slots=slots)
    plain = defaults(opened.template, opened.path)
    return Offer(
        name,
        opened.template,
        opened.system,
        opened.generator,
        None,
        plain,
        opened.generator.context,
        opened.description,
        forms=Forms(opened.tokenizer, plain.stop_ids) if exported else None,
        notes=(*opened.template.notes, *opened.generator.notes),
    )


def _asked(engine: Engine) -> dict[str, Any]:
    """What of an engine was asked for, by the names of its options."""
    asked = {"window": engine.window, "lookup": engine.lookup, "draft": engine.draft}
    return asked | ({"engine": engine.kind} if engine.kind != PLAIN.kind else {})


def _scorer(spec: str, name: str, dtype: str) -> Offer:
    """A reward model: a head over an adapter, a whole model or a checkpoint."""
    from tunesmith.models.reading import Reader

    scorer = scoring.load(spec, dtype=dtype)
    hf: Any = scorer.model.hf
    reach = hf.config.get_text_config().to_dict().get("max_position_embeddings")
    return Offer(
        name,
        scorer.parts.template,
        scorer.parts.system,
        None,
        Reader(None, backbone=hf.base_model, head=scorer.stage.score),
        Sampling(),
        reach if isinstance(reach, int) and reach > 0 else None,
        f"{spec} → {scorer.description} (reward model)",
    )

"""`tunesmith model`: what a model is made of, and its tokenizer and vocabulary made anew."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import model_head, model_tokenizer, output

app = output.app(
    help="What a model is made of; its tokenizer converted, its vocabulary expanded.",
    examples=[
        "tunesmith model info builtin:tiny",
        "tunesmith model info last --json",
        "tunesmith model info merged/ --depth 2",
        "tunesmith model convert-tokenizer old-model/",
        "tunesmith model expand-vocab builtin:tiny -o wider/ --words words.txt",
        "tunesmith model convert-head old-reward-model/ -o reward-model/",
    ],
)


@app.callback()
def verb() -> None:
    """What a model is made of; its tokenizer converted, its vocabulary expanded."""


app.command("convert-tokenizer")(model_tokenizer.convert_tokenizer)
app.command("expand-vocab")(model_tokenizer.expand_vocab)
app.command("convert-head")(model_head.convert_head)


@app.command("info")
def info(
    model: Annotated[str, typer.Argument(help="Run, directory, builtin: or hub id.")],
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show.")] = 3,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Parameters and memory by module, types, vocabulary, template. Reads no weights."""
    found = describe(model, depth)
    output.result(found, json=json, text=shown(found))


def describe(spec: str, depth: int) -> dict[str, Any]:
    """Everything `model info` says."""
    from tunesmith.compose import source
    from tunesmith.generation.model_impl import context_length
    from tunesmith.models import info as counting, load
    from tunesmith.recipe.sections import ModelConfig

    place = source.locate(spec)
    directory, _ = load.resolve(place.base)
    source.content_hash(place)  # so that its adapters find it again if it moves
    skeleton: Any = load.skeleton(ModelConfig(path=str(directory)))
    bytes_by_type = counting.stored(directory)
    total = sum(p.numel() for p in skeleton.parameters())
    per_parameter = sum(bytes_by_type.values()) / max(total, 1)
    rows = [
        {
            "layer": "  " * part.depth + part.name + (f" {part.shared}" if part.shared else ""),
            "parameters": part.parameters,
            "ratio": part.parameters / total,
            "memory_mb": part.parameters * per_parameter / 1e6,
            "depth": part.depth,
        }
        for part in counting.parts(skeleton, depth)
    ]
    itemsize = round(per_parameter) or 4
    return {
        "model": spec,
        "path": str(directory),
        "family": skeleton.config.model_type,
        "class": type(skeleton).__name__,
        "parameters": total,
        "stored_mb": {kind: size / 1e6 for kind, size in bytes_by_type.items()},
        "embedding_rows": len(skeleton.get_input_embeddings().weight),
        "tied_embeddings": skeleton.config.get_text_config().tie_word_embeddings,
        "context": context_length(skeleton.config),
        "kv_cache_bytes_per_token": counting.cache_bytes(skeleton, itemsize),
        **_template(place.top or directory, directory),
        "adapters": [_adapter(path, total) for path in place.adapters],
        "checkpoint": str(place.checkpoint) if place.checkpoint else None,
        "layers": rows,
    }


def _template(top: Path, base: Path) -> dict[str, Any]:
    """Vocabulary, chat template and stop tokens; Nones where there is no tokenizer."""
    from tunesmith.errors import TunesmithError
    from tunesmith.templates import base as templates
    from tunesmith.templates.tokenizers import convert

    try:
        home = top if convert.has_tokenizer(top) else base
        template = templates.load("auto", home)
    except TunesmithError:
        return {"vocabulary": None, "template": None, "stop_tokens": []}
    tokenizer = template.tokenizer
    stops = {tokenizer.decode([id]): id for id in template.stop_ids}
    return {
        "vocabulary": tokenizer.vocab_size,
        "template": "its own" if template.name == "auto" else template.name,
        "stop_tokens": stops,
    }


def _adapter(path: Path, total: int) -> dict[str, Any]:
    from tunesmith.exporting.shards_impl import headers

    config = jsonlib.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = headers(path / "adapter_model.safetensors")
    count = 0
    for tensor in tensors:
        size = 1
        for length in tensor.shape:
            size *= length
        count += size
    modules = {tensor.name.partition(".lora_")[0] for tensor in tensors if ".lora_" in tensor.name}
    return {
        "path": str(path),
        "kind": config.get("peft_type"),
        "r": config.get("r"),
        "lora_alpha": config.get("lora_alpha"),
        "modules": len(modules),
        "parameters": count,
        "share": count / (total + count),
    }


def shown(found: dict[str, Any]) -> str:
    """The same as lines for a terminal."""
    stored = " + ".join(f"{size:,.1f} MB {kind}" for kind, size in found["stored_mb"].items())
    tied = "tied to the head" if found["tied_embeddings"] else "not tied"
    vocabulary = found["vocabulary"]
    tokenizer = "no tokenizer" if vocabulary is None else f"{vocabulary:,} tokens"
    stops = ", ".join(f"{text} ({id})" for text, id in dict(found["stop_tokens"]).items())
    cache = found["kv_cache_bytes_per_token"]
    lines = [
        f"model     {found['model']} → {found['path']}",
        f"family    {found['family']} ({found['class']})",
        f"size      {found['parameters']:,} parameters · {stored}",
        f"vocab     {tokenizer} · {found['embedding_rows']:,} embedding rows, {tied}",
        f"context   {found['context'] or 'no limit'}"
        + (f" · {cache / 1e3:.1f} kB of cache a token" if cache else ""),
        f"template  {found['template'] or '–'} · answers end at {stops or '–'}",
    ]
    for one in found["adapters"]:
        lines.append(
            f"adapter   {one['kind']} r={one['r']} on {one['modules']} modules → "
            f"{one['parameters']:,} parameters ({one['share']:.2%}) · {one['path']}"
        )
    if found["checkpoint"]:
        lines.append(f"over it   {found['checkpoint']}")
    return "\n".join([*lines, "", *_table(found["layers"])])


def _table(rows: list[dict[str, Any]]) -> list[str]:
    width = max(len("LAYER NAME"), *(len(row["layer"]) for row in rows))
    lines = [f"{'LAYER NAME':<{width}} {'#PARAMS':>14} {'RATIO':>8} {'MEM(MB)':>10}"]
    for row in rows:
        lines.append(
            f"{row['layer']:<{width}} {row['parameters']:>14,} {row['ratio']:>8.2%} "
            f"{row['memory_mb']:>10,.2f}"
        )
    return lines

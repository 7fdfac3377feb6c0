"""What a run leaves behind beside its checkpoints: data report, final/, model card, curves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.compose import quantising
from tunesmith.compose.source import CARD, find_run, record_base
from tunesmith.data import trained
from tunesmith.data.stream_head import Head
from tunesmith.recipe.sections import Recipe
from tunesmith.rundir import RunDir


def write_report(directory: RunDir, train_set: Any, eval_set: Any) -> None:
    """data_report.json: rows, tokens, what was cut, and every row that was left out."""
    report = {"train": train_set.report}
    if eval_set is not None:
        report["eval"] = eval_set.report
    text = json.dumps(report, ensure_ascii=False, indent=2)
    (directory.path / "data_report.json").write_text(text + "\n", encoding="utf-8")


def lineage(recipe: Recipe, train_set: Any, eval_set: Any) -> dict[str, Any]:
    """What run.json says of where a run comes from: its parent run, and its data by hash.

    A source's hash is its key in the token store: of its rows, and of how they were encoded.
    """
    spec = recipe.model.path or ""
    plain = Path(spec).is_dir() and not (Path(spec) / "run.json").is_file()
    known = spec and not plain and not spec.startswith("builtin:")
    parent = find_run(spec.removeprefix("run:"), recipe.output.dir) if known else None
    sets = {"train": train_set, "eval": eval_set}
    return {
        "parent": parent[0].id if parent else None,
        "data": {
            name: [{"path": one.get("path"), "sha256": one.get("key")} for one in _sources(found)]
            for name, found in sets.items()
            if found is not None
        },
    }


def _sources(found: Any) -> list[dict[str, Any]]:
    return found.report.get("sources", [])


def describe_data(train_set: Any, eval_set: Any, measured: Sequence[int] = ()) -> str:
    """`2,000 rows → 319k tokens, 41% trained · 0 truncated · 3 dropped (data_report.json)`."""
    tokens = int(train_set.lengths.sum())
    share = 100 * trained.tokens(train_set, measured).trained / max(tokens, 1)
    report = train_set.report
    first = "the first " if isinstance(train_set, Head) else ""
    text = (
        f"{first}{len(train_set):,} rows → {tokens:,} tokens, {share:.0f}% trained"
        f" · {report['truncated']:,} tokens cut"
        f" · {report['bad_rows'] + report['left_out']:,} left out"
    )
    if eval_set is not None:
        text += f" · {len(eval_set):,} for evaluation"
    return text + " (data_report.json)"


def first_example(train_set: Any) -> tuple[list[int], list[float]]:
    """Ids and weights of the first example of the first row."""
    example = train_set[0][0]
    return example.ids_T.tolist(), example.weights_T.tolist()


def write_final(run: Any, origin: Any) -> Path:
    """final/: the tuned weights with tokenizer, template, generation config and model card.

    Written aside, brought to the disk and renamed, so that a final/ is always whole.
    """
    from tunesmith.training import durable

    final = run.directory.path / "final"
    aside = run.directory.path / f".final-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    run.tuner.save(run.hf, aside)
    run.stage.save(run.hf, aside)
    template = run.stage.template
    template.tokenizer.save(aside, chat_template=template.jinja)
    stops = sorted({*template.stop_ids, template.tokenizer.eos_id} - {None})
    _write_json(aside / "generation_config.json", _generation_config(template.tokenizer, stops))
    _write_json(aside / CARD, _card(run, origin, template))
    if (aside / "adapter_config.json").is_file():
        _name_base(aside / "adapter_config.json", run, origin)
    (aside / "README.md").write_text(model_card(run, origin), encoding="utf-8")
    _readable(aside)
    durable.sync_tree(aside)
    shutil.rmtree(final, ignore_errors=True)
    aside.replace(final)
    durable.sync_directory(final.parent)
    return final


def _readable(folder: Path) -> None:
    """Gives files the rights the user's umask allows: safetensors writes for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)


def _generation_config(tokenizer: Any, stops: list[int]) -> dict[str, Any]:
    ids = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    return {"eos_token_id": stops, **{k: v for k, v in ids.items() if v is not None}}


def _card(run: Any, origin: Any, template: Any) -> dict[str, Any]:
    base = None
    if origin.source is not None:
        base = record_base(origin.source, run.directory.path / "final", origin.sha256)
    return {
        "tunesmith": __version__,
        "run": run.directory.id,
        "stage": run.recipe.stage.kind,
        "tuner": run.recipe.tuner.kind,
        "step": run.step,
        "system": run.recipe.data.system,
        "base": base,
        "quantize": quantising.noted(run.recipe.model.quantize),
    }


_MERGE_FIRST = (
    "Its base model is an adapter itself. tunesmith knows; for other libraries merge that first "
    "(`tunesmith merge {} -o DIR`) and load this adapter over DIR."
)


def _name_base(path: Path, run: Any, origin: Any) -> None:
    """Names the base in PEFT's file, so that PEFT finds it too; or says why it can't.

    PEFT would lay this adapter over a base that is an adapter itself, and compute something else
    without a word: such a base is not named by its path.
    """
    config = json.loads(path.read_text())
    source = origin.source
    if source is not None:
        config["base_model_name_or_path"] = str(source.top or source.base)
    if source is not None and _is_chained(origin):
        why = f"an adapter itself: tunesmith merge {source.spec} first"
        config["base_model_name_or_path"] = why
    _write_json(path, config)


def _is_chained(origin: Any) -> bool:
    """Whether the base is an adapter over another one."""
    source = origin.source
    return source is not None and bool(source.adapters or (source.base and source.checkpoint))


def model_card(run: Any, origin: Any) -> str:
    """README.md of final/, with the numbers of this run."""
    recipe = run.recipe
    base = origin.source.spec if origin.source else "from scratch"
    rows = [
        ("base model", base),
        ("stage", recipe.stage.kind),
        ("tuner", recipe.tuner.kind),
        ("steps", f"{run.step:,}"),
        ("tokens seen", f"{run.log.tokens:,}"),
        ("data", ", ".join(Path(source.path).name for source in recipe.data.train)),
    ]
    best = run.best if recipe.eval.load_best_model_at_end else None
    last = best.loss if best else run.last_eval
    if last is not None:
        rows.append(("eval loss", f"{run.first_eval:.4f} → {last:.4f}"))
    note = f"\n\n{_MERGE_FIRST.format(base)}" if _is_chained(origin) else ""
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"---\nlibrary_name: transformers\ntags: [tunesmith]\n---\n# {run.directory.id}\n\n"
        f"Made by tunesmith {__version__}; `resolved.yaml` of the run repeats it.\n\n"
        f"| | |\n|---|---|\n{table}\n\nTalk to it: `tunesmith chat {run.directory.id}`"
        f"{note}\n"
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

"""What stands beside merged weights: config, tokenizer, chat template, generation config, card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.errors import ExportError, TunesmithError
from tunesmith.templates import base as templates
from tunesmith.templates.tokenizers import convert

CARD = "tunesmith.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def install(aside: Path, out: Path) -> None:
    """Gives a finished directory its name; what had it is removed after."""
    old = aside.with_name(f"{aside.name}.old")
    if out.exists():
        out.rename(old)
    aside.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def write_config(base: Path, out: Path, changes: Mapping[str, Any]) -> None:
    """The base's config.json with what the merge changed; all else stays as it is."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    inner = config.get("text_config")
    for name, value in changes.items():
        if name == "dtype":
            config.pop("torch_dtype", None)
        if isinstance(inner, dict) and name in inner:
            inner[name] = value
        config[name] = value
    _write_json(out / "config.json", config)


def write_tokenizer(sources: Sequence[Path], out: Path) -> bool:
    """Copies the tokenizer of the first folder that has one, its chat template as a file too.

    Returns:
        Whether there was one.
    """
    home = next((s for s in sources if (s / "tokenizer_config.json").is_file()), None)
    home = home or next((s for s in sources if convert.has_tokenizer(s)), None)
    if home is None:
        return False
    for name in (*TOKENIZER, *(file.name for file in sorted(home.glob("*.tiktoken")))):
        if (home / name).is_file():
            shutil.copyfile(home / name, out / name)
    config = _read_json(out / "tokenizer_config.json")
    inside = config.get("chat_template")
    if isinstance(inside, str) and not (out / "chat_template.jinja").exists():
        (out / "chat_template.jinja").write_text(inside, encoding="utf-8")
    return True


def write_generation_config(sources: Sequence[Path], out: Path, notes: list[str]) -> None:
    """The base's generation config, overlaid by the adapters', with every id that ends an answer.

    Args:
        sources: The base, then the adapters: later ones win.
        out: The merged directory, its tokenizer in place.
        notes: Is told what could not be found out.
    """
    merged: dict[str, Any] = {}
    stops: set[int] = set()
    for source in sources:
        found = _read_json(source / "generation_config.json")
        stops |= _ids(found.get("eos_token_id"))
        merged |= {name: value for name, value in found.items() if value is not None}
    try:
        stops |= set(templates.load("auto", out).stop_ids)
    except TunesmithError as error:  # no tokenizer, or one we can't read
        notes.append(f"stop tokens are those of the base only: {error.what}")
    stops |= _ids(_read_json(out / "config.json").get("eos_token_id")) if not stops else set()
    if stops:
        merged["eos_token_id"] = sorted(stops) if len(stops) > 1 else stops.pop()
    merged.pop("_from_model_config", None)
    _write_json(out / "generation_config.json", merged)


def write_card(out: Path, title: str, adapters: Sequence[Path], facts: Mapping[str, str]) -> None:
    """README.md (a model card) and tunesmith.json (what our own chat needs to know)."""
    earlier: dict[str, Any] = {}
    for adapter in adapters:
        earlier |= _read_json(adapter / CARD)
    kept = {k: v for k, v in earlier.items() if k not in ("base", "tunesmith")}
    _write_json(out / CARD, {"tunesmith": __version__, **kept, "merged": True})
    trained = [str(_read_json(adapter / CARD).get("run") or adapter.name) for adapter in adapters]
    rows = {**facts, "adapters": ", ".join(trained)}
    table = "\n".join(f"| {key} | {_cell(value)} |" for key, value in rows.items())
    base = facts["base model"]
    based = f"base_model: {base}\n" if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else ""
    (out / "README.md").write_text(
        f"---\nlibrary_name: transformers\n{based}tags: [tunesmith, merged]\n---\n"
        f"# {title}\n\nA LoRA adapter baked into its base by tunesmith {__version__}: an "
        f"ordinary transformers model.\n\n| | |\n|---|---|\n{table}\n",
        encoding="utf-8",
    )


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _ids(found: Any) -> set[int]:
    values = found if isinstance(found, list) else [found]
    return {value for value in values if isinstance(value, int) and not isinstance(value, bool)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ExportError(
            "X103", f"{path.name} can't be read: {error}", where=str(path), fix="mend or remove it"
        ) from None
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

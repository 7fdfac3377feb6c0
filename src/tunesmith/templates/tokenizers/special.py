"""Special tokens and settings from the small files around a tokenizer.

They stand in up to four files, older ones in more of them: `tokenizer_config.json`,
`special_tokens_map.json`, `added_tokens.json`, `generation_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer as Rust, processors

from tunesmith.templates.tokenizers.faults import conflict, unreadable

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json", "config.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
# Classes whose code puts BOS in front unless told otherwise; of the rest none does.
_BEGIN = ("llama", "codellama", "gemma", "internlm", "internlm2", "mistral", "yi")
# What tokenizer_config.json says to the code we don't run, or what tokenizer.json holds now.
_DROPPED = ("auto_map", "added_tokens_decoder", "sp_model_kwargs", "chat_template", "vocab_file",
            "tokenizer_file", "name_or_path", "special_tokens_map_file")  # fmt: skip


@dataclass
class Given:
    """What the files around a tokenizer say."""

    config: dict[str, Any] = field(default_factory=dict)
    """tokenizer_config.json."""
    model: dict[str, Any] = field(default_factory=dict)
    """config.json."""
    generation: dict[str, Any] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    """`bos_token` … → its string."""
    added: dict[int, AddedToken] = field(default_factory=dict)
    """Tokens beyond the vocabulary, or with flags of their own, by id."""
    extra: list[str] = field(default_factory=list)
    """More special tokens, without an id."""
    chat_template: str | None = None

    @property
    def kind(self) -> str:
        """The tokenizer class, in lower case."""
        return str(self.config.get("tokenizer_class") or "").lower()


def read(folder: Path) -> Given:
    """Reads the files of a folder that are there.

    Raises:
        EnvironmentFault: E221, one of them is not JSON.
    """
    given = Given(
        _object(folder / "tokenizer_config.json"),
        _object(folder / "config.json"),
        _object(folder / "generation_config.json"),
    )
    listed = _object(folder / "special_tokens_map.json")
    for name in NAMED:
        found = _content(given.config.get(name)) or _content(listed.get(name))
        if found:
            given.named[name] = found
    for content, id in _object(folder / "added_tokens.json").items():
        if isinstance(id, int):
            given.added[id] = AddedToken(content, normalized=False)
    for id, token in (given.config.get("added_tokens_decoder") or {}).items():
        if isinstance(token, dict) and str(id).isdigit():
            given.added[int(id)] = _added(token)
    for source in (listed, given.config):
        more = source.get("additional_special_tokens") or []
        given.extra += [text for text in map(_content, more) if text and text not in given.extra]
    given.chat_template = _chat_template(folder, given.config)
    return given


def apply(rust: Rust, given: Given, defaults: Mapping[str, str], where: str) -> list[str]:
    """Adds what the files name to a tokenizer, each token under its id.

    Args:
        rust: Is changed.
        given: What the files say; `named` is completed.
        defaults: Named tokens that the tokenizer's own file tells.
        where: Of the tokenizer, for errors.

    Returns:
        Notes.

    Raises:
        EnvironmentFault: E224, a token would have another id than the files say.
    """
    notes: list[str] = []
    special = {*given.named.values(), *given.extra}
    new = {id: t for id, t in given.added.items() if rust.token_to_id(t.content) is None}
    size = max(rust.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    gaps = [id for id in range(size, max(new, default=-1)) if id not in new]
    new |= {id: AddedToken(f"<|unused_{id}|>", special=True) for id in gaps}
    if gaps:
        notes.append(f"{len(gaps)} ids from {gaps[0]} on have no token: they are <|unused_N|>")
    _add(rust, [t for _, t in sorted((given.added | new).items())], special)
    for id, token in given.added.items():
        if rust.token_to_id(token.content) != id:
            raise conflict(where, token.content, id, rust.token_to_id(token.content))
    _from_ids(rust, given)
    for name, content in defaults.items():
        given.named.setdefault(name, content)
    wanted = dict.fromkeys([*given.named.values(), *given.extra])
    late = [text for text in wanted if rust.token_to_id(text) is None]
    flags = {t.content: t for t in rust.get_added_tokens_decoder().values()}
    plain = [text for text in wanted if text not in flags or not flags[text].special]
    _add(rust, [flags.get(t, AddedToken(t, normalized=False)) for t in plain], set(wanted))
    if late:
        told = ", ".join(f"{text} ({rust.token_to_id(text)})" for text in late[:4])
        notes.append(f"{len(late)} special tokens are not in the vocabulary and were added: {told}")
    return notes


def _add(rust: Rust, tokens: Sequence[AddedToken], special: Collection[str]) -> None:
    """Adds tokens in their order, many at once: each call builds the search anew.

    Symbols that are looked for in normalised text remain so, whatever flags a file gives them.
    """
    symbols = {t.content for t in rust.get_added_tokens_decoder().values() if t.normalized}
    for is_special, group in groupby(tokens, lambda t: t.special or t.content in special):
        made = [
            AddedToken(
                t.content,
                special=is_special,
                lstrip=t.lstrip,
                rstrip=t.rstrip,
                single_word=t.single_word,
                normalized=t.normalized or t.content in symbols,
            )
            for t in group
        ]
        if is_special:
            rust.add_special_tokens(made)
        else:
            rust.add_tokens(made)


def _from_ids(rust: Rust, given: Given) -> None:
    """Named tokens that only generation_config.json or config.json tell, by id."""
    for name in ("bos_token", "eos_token", "pad_token"):
        for source in (given.generation, given.model):
            id = source.get(f"{name}_id")
            id = id[0] if isinstance(id, list) and id else id
            token = rust.id_to_token(id) if type(id) is int and id >= 0 else None
            if token is not None:
                given.named.setdefault(name, token)


def add_ends(rust: Rust, given: Given, settings: Mapping[str, Any], *, llama: bool) -> list[str]:
    """Has BOS and EOS put around texts, where the files say so.

    Args:
        rust: Is changed.
        given: Its named tokens.
        settings: `add_bos_token` and `add_eos_token`, where they are told.
        llama: Whether the tokenizer is like Llama's: BOS in front, if no file says anything.
    """
    begin, end = settings.get("add_bos_token"), bool(settings.get("add_eos_token"))
    notes = []
    if not isinstance(begin, bool):
        family = given.kind.removesuffix("fast").removesuffix("tokenizer")
        begin = family in _BEGIN if family else llama
        if not family and begin and "bos_token" in given.named:
            bos = given.named["bos_token"]
            notes.append(f"no file says whether texts begin with {bos}: they do, as in Llama")
    first = given.named.get("bos_token") if begin else None
    last = given.named.get("eos_token") if end else None
    ends = [token for token in (first, last) if token]
    if ends:
        one = " ".join(filter(None, [first, "$A", last]))
        two = " ".join(filter(None, [first and f"{first}:1", "$B:1", last and f"{last}:1"]))
        ids = [(token, rust.token_to_id(token)) for token in dict.fromkeys(ends)]
        rust.post_processor = processors.TemplateProcessing(
            single=one, pair=f"{one} {two}", special_tokens=ids
        )
    given.config["add_bos_token"], given.config["add_eos_token"] = bool(first), bool(last)
    return notes


def config(given: Given) -> dict[str, Any]:
    """The tokenizer_config.json of the converted tokenizer."""
    kept = {k: v for k, v in given.config.items() if k not in _DROPPED}
    if given.extra:
        kept["additional_special_tokens"] = given.extra
    settings = {"clean_up_tokenization_spaces": False, **kept, **given.named}
    return {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from None
    if not isinstance(found, dict):
        raise unreadable(file, "it is not a JSON object")
    return found


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) and found else None


def _added(token: dict[str, Any]) -> AddedToken:
    flags = {
        k: bool(token[k])
        for k in ("lstrip", "rstrip", "single_word", "normalized", "special")
        if k in token
    }
    return AddedToken(str(token.get("content", "")), **flags)


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template") or _object(folder / "chat_template.json").get(
        "chat_template"
    )
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) and found else None

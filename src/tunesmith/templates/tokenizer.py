"""A tokenizer read from `tokenizer.json` and `tokenizer_config.json`, without transformers.

A folder that has only older files is converted first; see `tokenizers/convert.py`.

Beside the tokenizer itself it keeps variants for text that does not begin a sequence, so that a
chat tokenised in pieces gets the ids it would get as a whole, and for text in which the strings of
special tokens are only text.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer as Rust

from tunesmith.errors import DataError, EnvironmentFault
from tunesmith.templates.tokenizers import convert

Place = Literal["start", "token", "text"]
"""What precedes a text: nothing, an added token, or other text."""

NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_MORE = ("sep_token", "cls_token", "mask_token")
_TAG = re.compile(r"</?(\w+)>")


class Tokenizer:
    """Text to ids and back. Immutable in effect, picklable (it is read anew from its folder).

    Attributes:
        path: The folder it was read from: the one named, or where its conversion is kept.
        notes: What to say about a conversion; empty for a tokenizer.json.
        bos_id, eos_id, pad_id, unk_id: Ids of the named tokens, None where there is none.
        bos, eos: Their strings, empty where there is none.
        special_ids: Ids of all special tokens.
        breaks: Added tokens after which text begins anew. Those that are looked for in normalised
            text don't break it: what a normalizer puts in front is there already.
        added: String → id of every added token, special or not.
        adds_bos: Whether plain text is encoded with a BOS in front.
        chat_template: The model's own Jinja template, or None.
        vocab_size: Largest id plus one.
        hash: sha256 of tokenizer.json and of the settings that change ids.
    """

    def __init__(self, path: str | Path):
        self.path, self.notes = convert.ready(Path(path))
        data, self.config = _read(self.path)
        self.rust = _parse(data, self.path)
        names = [*NAMED, *_MORE]
        named = {name: token for name in names if (token := _content(self.config.get(name)))}
        _declare_special(self.rust, named, self.config)
        self.added = {t.content: i for i, t in self.rust.get_added_tokens_decoder().items()}
        flags = self.rust.get_added_tokens_decoder()
        normalizer = self.rust.normalizer
        prepends = normalizer is not None and b'"Prepend"' in normalizer.__getstate__()
        self.breaks = tuple(t.content for t in flags.values() if not (t.normalized and prepends))
        self.special_ids = frozenset(i for i, token in flags.items() if token.special)
        self.strips_after = frozenset(t.content for t in flags.values() if t.rstrip)
        self.strips_before = frozenset(t.content for t in flags.values() if t.lstrip)
        ids = {name: self.rust.token_to_id(token) for name, token in named.items()}
        self.bos_id, self.eos_id = ids.get("bos_token"), ids.get("eos_token")
        self.pad_id, self.unk_id = ids.get("pad_token"), ids.get("unk_token")
        self.bos, self.eos = named.get("bos_token", ""), named.get("eos_token", "")
        self.named = named
        self.adds_bos = self._adds_bos()
        self.chat_template = _chat_template(self.path, self.config)
        self.vocab_size = max(self.rust.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        settings = json.dumps([sorted(named.items()), sorted(self.special_ids), self.adds_bos])
        self.hash = hashlib.sha256(data + settings.encode()).hexdigest()
        self._spec: dict[str, Any] | None = None
        self._variants: dict[Any, Rust] = {}

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads the tokenizer of a model folder.

        Raises:
            EnvironmentFault: E201, there is no readable tokenizer.json; E221 to E225, nor one that
                can be made of what there is.
        """
        return cls(path)

    def __reduce__(self):
        return Tokenizer, (self.path,)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text; strings of special tokens in it become those tokens; no BOS is added."""
        return self.rust.encode(text, add_special_tokens=False).ids

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each document: BOS where the tokenizer adds one, never EOS.

        A document that spells a special token has its characters encoded, not the token: text
        scraped from anywhere must not end documents or start turns.
        """
        begin = [self.bos_id] if self.adds_bos and self.bos_id is not None else []
        special = frozenset(token for token, id in self.added.items() if id in self.special_ids)
        return [begin + ids for ids in self.encode_batch(texts, "start", special)]

    def encode_batch(
        self, texts: Sequence[str], place: Place, as_text: frozenset[str] | None = None
    ) -> list[list[int]]:
        """Ids of each text, in parallel where `TOKENIZERS_PARALLELISM` allows.

        Args:
            texts: What to encode.
            place: What precedes them; decides whether a SentencePiece-like tokenizer puts its
                space in front.
            as_text: Added tokens whose strings are ordinary text here; None: none.

        Raises:
            DataError: D306, such a string becomes its token whatever one does.
        """
        if not texts:
            return []
        variant = self._variant(place, as_text)
        found = [e.ids for e in variant.encode_batch_fast(texts, add_special_tokens=False)]
        if as_text is not None:
            # An unknown character is no control token, whatever its id is called.
            barred = {self.added[token] for token in as_text} - {self.unk_id}
            for index, ids in enumerate(found):
                if not barred.isdisjoint(ids):
                    found[index] = self._apart(texts[index], place, as_text, barred)
        return found

    def _apart(
        self, text: str, place: Place, as_text: frozenset[str], barred: set[int]
    ) -> list[int]:
        """Ids of a text whose vocabulary has control tokens as ordinary pieces (Unigram may).

        Each of their strings is cut after its first character.
        """
        pattern = re.compile("|".join(map(re.escape, sorted(as_text))))
        cuts = [0, *(found.start() + 1 for found in pattern.finditer(text)), len(text)]
        ids: list[int] = []
        for start, stop in pairwise(cuts):
            variant = self._variant("text" if start else place, as_text)
            ids += variant.encode(text[start:stop], add_special_tokens=False).ids
        if barred.isdisjoint(ids):
            return ids
        found = pattern.search(text)
        raise DataError(
            "D306",
            f"the text {found.group() if found else ''!r} in the data becomes a control token",
            why="The tokenizer has no other way to write these characters.",
            fix="remove it from the row, or leave such rows out: data.on_bad_row=skip",
        )

    @property
    def seamless(self) -> bool:
        """Whether ids don't depend on what precedes a text (no space is put in front)."""
        return self._variant("text", None) is self.rust

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of ids; bytes that are no UTF-8 come out as U+FFFD."""
        return self.rust.decode(list(ids), skip_special_tokens=skip_special)

    def decode_stream(self, skip_special: bool = True) -> DecodeStream:
        """Decodes token by token; see `DecodeStream`."""
        return DecodeStream(self, skip_special)

    def save(self, path: str | Path, chat_template: str | None = None) -> None:
        """Writes tokenizer.json, its configuration and, if given, the chat template."""
        target = Path(path)
        shutil.copyfile(self.path / "tokenizer.json", target / "tokenizer.json")
        # The template is in a file of its own; `auto_map` names code to run.
        dropped = ("chat_template", "auto_map")
        config = {key: value for key, value in self.config.items() if key not in dropped}
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        (target / "tokenizer_config.json").write_text(text, encoding="utf-8")
        if chat_template is not None:
            (target / "chat_template.jinja").write_text(chat_template, encoding="utf-8")

    def markup_only(self, markup: str) -> frozenset[str]:
        """Added tokens that content may never produce, in a template whose source is `markup`.

        They are the special tokens, and other added tokens that the template writes: some models
        don't flag `<｜User｜>`. White space is content wherever it stands. Pairs of tags such as
        `<think>` … `</think>` that the tokenizer
        does not call special are the model's to write, hence left to content.
        """
        found = set()
        for token, id in self.added.items():
            tag = _TAG.fullmatch(token)
            paired = tag and {f"<{tag[1]}>", f"</{tag[1]}>"} <= self.added.keys()
            written = token in markup and not paired and not token.isspace()
            if id in self.special_ids or written:
                found.add(token)
        return frozenset(found)

    def token(self, name: str) -> str:
        """String of `bos_token`, `eos_token` …; empty if there is none."""
        return self.named.get(name, "")

    def _adds_bos(self) -> bool:
        if self.bos_id is None:
            return False
        told = self.config.get("add_bos_token")
        if isinstance(told, bool):
            return told
        return self.rust.encode("").ids[:1] == [self.bos_id]

    def _variant(self, place: Place, as_text: frozenset[str] | None) -> Rust:
        key = place, as_text
        if key not in self._variants:
            self._variants[key] = self._make_variant(place, as_text)
        return self._variants[key]

    def _make_variant(self, place: Place, as_text: frozenset[str] | None) -> Rust:
        full = self._spec = self._spec or json.loads(self.rust.to_str())
        shallow = {k: v for k, v in full.items() if k not in ("model", "added_tokens")}
        spec = copy.deepcopy(shallow)
        if place != "start":
            _continue(spec, place)
        if spec == shallow and as_text is None:
            return self.rust
        tokens = [
            {**t, "special": t["special"] if as_text is None else t["content"] in as_text}
            for t in full["added_tokens"]
        ]
        variant = Rust.from_str(
            json.dumps({**spec, "model": full["model"], "added_tokens": tokens})
        )
        variant.encode_special_tokens = as_text is not None
        return variant


class DecodeStream:
    """Text of a growing list of ids, piece by piece, never with half a UTF-8 character.

    The pieces join to `decode` of all ids: each token is decoded together with the few before it,
    since some tokenizers drop the space in front of whatever comes first.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool):
        self._tokenizer = tokenizer
        self._skip = skip_special
        self._ids: list[int] = []
        self._context = 0
        self._told = 0

    def step(self, id: int) -> str:
        """The new text that this token completes; empty while a character is incomplete."""
        self._ids.append(id)
        before, now = self._window()
        # A character has at most four bytes, one a token: after twice that they are broken.
        if now.endswith("\ufffd") and len(self._ids) - self._told < 8:
            return ""
        if len(now) <= len(before):
            return ""
        self._context, self._told = self._told, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """What was held back, broken characters as U+FFFD."""
        before, now = self._window()
        self._context = self._told = len(self._ids)
        return now[len(before) :]

    def _window(self) -> tuple[str, str]:
        decode = self._tokenizer.decode
        before = decode(self._ids[self._context : self._told], self._skip)
        return before, decode(self._ids[self._context :], self._skip)


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    config: Any = {}
    if (path / "tokenizer_config.json").is_file():
        try:
            config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise _unreadable(path / "tokenizer_config.json", error) from None
    if not isinstance(config, dict):
        raise _unreadable(path / "tokenizer_config.json", "not a JSON object")
    return (path / "tokenizer.json").read_bytes(), config


def _parse(data: bytes, path: Path) -> Rust:
    try:
        return Rust.from_str(data.decode("utf-8"))
    except Exception as error:  # tokenizers raises bare Exception
        raise _unreadable(path / "tokenizer.json", error) from None


def _unreadable(file: Path, error: object) -> EnvironmentFault:
    what = f"the tokenizer can't be read: {str(error)[:200]}"
    return EnvironmentFault("E201", what, where=str(file), fix="fetch the model's files anew")


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) and found else None


def _declare_special(rust: Rust, named: dict[str, str], config: dict[str, Any]) -> None:
    """Makes the tokens that the configuration names special, as transformers does on loading."""
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    if isinstance(extra, dict):
        extra = list(extra.values())
    wanted = [*named.values(), *filter(None, map(_content, extra))]
    flags = {t.content: t.special for t in rust.get_added_tokens_decoder().values()}
    missing = [t for t in dict.fromkeys(wanted) if not flags.get(t)]
    rust.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in missing])
    # Padding and cutting are ours; a tokenizer.json may carry either.
    rust.no_padding()
    rust.no_truncation()


def _chat_template(path: Path, config: dict[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) and found else None


def _continue(node: Any, place: Place) -> None:
    """Changes normalizers and pre-tokenizers in place for text that does not begin a sequence.

    Metaspace puts its space before the first section only, or before each; Prepend and ByteLevel
    before each section between added tokens, where a Replace may take it off again. After an added
    token only the first kind is moot; after text all are.
    """
    if isinstance(node, list):
        for child in node:
            _continue(child, place)
    if not isinstance(node, dict):
        return
    kind = node.get("type")
    if kind == "Metaspace" and (place == "text" or node.get("prepend_scheme") == "first"):
        node["prepend_scheme"] = "never"
    if kind == "ByteLevel" and place == "text":
        node["add_prefix_space"] = False
    if place == "text" and (kind == "Prepend" or _is_at_beginning(node)):
        node.clear()
        node.update({"type": "Sequence", "normalizers": []})
    for key in ("normalizer", "pre_tokenizer", "normalizers", "pretokenizers"):
        if key in node:
            _continue(node[key], place)


def _is_at_beginning(node: dict[str, Any]) -> bool:
    """Whether this is a Replace that only concerns the beginning of a sequence."""
    pattern = node.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    return node.get("type") == "Replace" and str(regex).startswith(r"\A")

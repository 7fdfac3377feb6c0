"""A tokenizer from tokenizer.json: batched, picklable, and honest about special tokens.

Text is tokenised in segments, cut exactly where inference cuts a prompt from its completion. Where
a segment begins matters: SentencePiece-like tokenizers put a space marker before the first word of
a text. A segment at the start of a sequence, or after a special token, is encoded as the tokenizer
itself would; after plain text it must not get that marker, so a *continuation* variant encodes it.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import DecodeStream

from tunesmith.errors import EnvironmentFault

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Piece(NamedTuple):
    """Text of a segment; only markup may contain special tokens."""

    text: str
    markup: bool


class _Job(NamedTuple):
    """One text for one variant; the first `drop` ids are context, not part of it."""

    variant: str
    text: str
    drop: int = 0


class Tokenizer:
    """Wraps `tokenizers.Tokenizer`; never runs code that comes with a model.

    Args:
        path: Directory with tokenizer.json and, usually, tokenizer_config.json.

    Raises:
        EnvironmentFault: E201, there is no tokenizer.json; E208, it can't be read.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise EnvironmentFault(
                "E201",
                f"no tokenizer at {self.path}: tokenizer.json is missing",
                where="model.tokenizer",
                fix="give a directory with tokenizer.json, or convert the tokenizer first",
            )
        source = file.read_bytes()
        try:
            self.rust = RustTokenizer.from_str(source.decode("utf-8"))
        except Exception as error:  # the Rust side raises bare Exception
            raise EnvironmentFault(
                "E208",
                f"tokenizer.json can't be read: {error}",
                where=str(file),
                fix="fetch it again",
            ) from None
        self.rust.no_padding()
        self.rust.no_truncation()
        self.config = _read_json(self.path / "tokenizer_config.json")
        added = self.rust.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._id_of = {token.content: i for i, token in added.items() if token.special}
        self.special_pattern = _alternatives(self._id_of)
        self.bos_id = self._named("bos_token")
        self.eos_id = self._named("eos_token")
        self.pad_id = self._named("pad_token")
        self.unk_id = self._named("unk_token")
        self.vocab_size = self.rust.get_vocab_size(with_added_tokens=True)
        self.hash = hashlib.sha256(source).hexdigest()
        self._source = source

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        return cls(path)

    def __reduce__(self):
        return Tokenizer, (self.path,)

    # ------------------------------------------------------------ names of tokens

    def token(self, name: str) -> str:
        """Text of `bos_token`, `eos_token` …; empty if the tokenizer has none."""
        value = self.config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        return text if isinstance(text, str) else ""

    def special_id(self, text: str) -> int | None:
        """Id of a special token by its text, or None."""
        return self._id_of.get(text)

    def _named(self, name: str) -> int | None:
        text = self.token(name)
        return self.rust.token_to_id(text) if text else None

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that came with the tokenizer."""
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = self.config.get("chat_template")
        if isinstance(found, list):  # several by name: the default one
            named = {entry["name"]: entry["template"] for entry in found}
            return named.get("default") or next(iter(named.values()), None)
        return found

    # ------------------------------------------------------------ encoding

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text at the start of a sequence, special tokens recognised, none added."""
        return self.rust.encode(text, add_special_tokens=False).ids

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of plain documents: BOS where the tokenizer adds one, no EOS, and nothing in the text
        becomes a special token."""
        plain = self._variant("plain")
        lead = [self.bos_id] if self.adds_bos and self.bos_id is not None else []
        encoded = plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [lead + encoding.ids for encoding in encoded]

    @functools.cached_property
    def adds_bos(self) -> bool:
        """Whether a plain encoding begins with BOS."""
        ids = self.rust.encode("a", add_special_tokens=True).ids
        return bool(ids) and ids[0] == self.bos_id and self.bos_id is not None

    def encode_segments(
        self, sequences: Iterable[Sequence[Sequence[Piece]]]
    ) -> list[list[list[int]]]:
        """Ids of every segment of every sequence.

        Args:
            sequences: Sequences of segments of pieces; segments follow one another in a sequence.

        Returns:
            The same nesting: sequence → segment → ids. Content never yields a special token.
        """
        plans = [self._plan(segments) for segments in sequences]
        jobs = [job for plan in plans for segment in plan for job in segment]
        ids = iter(self._run(jobs))
        return [[[i for _ in segment for i in next(ids)] for segment in plan] for plan in plans]

    def _run(self, jobs: Sequence[_Job]) -> list[list[int]]:
        """Encodes jobs, a batch for each variant."""
        results: list[list[int]] = [[]] * len(jobs)
        by_variant: dict[str, list[int]] = {}
        for index, job in enumerate(jobs):
            by_variant.setdefault(job.variant, []).append(index)
        for variant, indices in by_variant.items():
            if variant == "special":
                for index in indices:
                    results[index] = [self._id_of[jobs[index].text]]
                continue
            texts = [jobs[index].text for index in indices]
            encoded = self._variant(variant).encode_batch_fast(texts, add_special_tokens=False)
            for index, encoding in zip(indices, encoded, strict=True):
                drop = jobs[index].drop
                results[index] = encoding.ids[drop:] if drop else encoding.ids
        return results

    def _plan(self, segments: Sequence[Sequence[Piece]]) -> list[list[_Job]]:
        """Which variant encodes what, segment by segment."""
        before: str | None = None  # None: start; "": plain text; else the special token before
        plan = []
        for pieces in segments:
            text = "".join(piece.text for piece in pieces)
            hostile = any(
                not piece.markup and self.special_pattern.search(piece.text) for piece in pieces
            )
            jobs = self._spans(pieces, before) if hostile else self._whole(text, before)
            plan.append(jobs)
            if text:
                before = self._last_special(pieces)
        return plan

    def _whole(self, text: str, before: str | None) -> list[_Job]:
        """A segment whose special strings are all markup."""
        if not text:
            return []
        if before is None or not self._marks_first_word:
            return [_Job("whole", text)]
        if before:
            return [_Job("whole", before + text, drop=1)]
        found = self.special_pattern.search(text)
        head = text[: found.start()] if found else text
        jobs = [_Job("continued", head)] if head else []
        return [*jobs, _Job("whole", text[len(head) :])] if found else jobs

    def _spans(self, pieces: Sequence[Piece], before: str | None) -> list[_Job]:
        """A segment with special strings in its content: markup's specials cut it into spans."""
        jobs: list[_Job] = []
        span = ""
        for piece in pieces:
            if not piece.markup:
                span += piece.text
                continue
            at = 0
            for found in self.special_pattern.finditer(piece.text):
                span += piece.text[at : found.start()]
                jobs += self._span(span, before, jobs)
                jobs.append(_Job("special", found.group()))
                span, at = "", found.end()
            span += piece.text[at:]
        return jobs + self._span(span, before, jobs)

    def _span(self, text: str, before: str | None, jobs: list[_Job]) -> list[_Job]:
        if not text:
            return []
        if jobs or before:
            return [_Job("after", text)]
        return [_Job("plain" if before is None else "continued plain", text)]

    def _last_special(self, pieces: Sequence[Piece]) -> str:
        """The special token a segment ends with, or an empty string."""
        last = next(piece for piece in reversed(pieces) if piece.text)
        if not last.markup:
            return ""
        found = list(self.special_pattern.finditer(last.text))
        return found[-1].group() if found and found[-1].end() == len(last.text) else ""

    @functools.cached_property
    def _marks_first_word(self) -> bool:
        """Whether anything in the pipeline treats the first word of a text apart."""
        return _without_first_word(json.loads(self._source)) != json.loads(self._source)

    @functools.lru_cache(maxsize=8)  # noqa: B019 — a tokenizer lives as long as its run
    def _variant(self, name: str) -> RustTokenizer:
        """whole: as it is · continued: no mark on the first word · after: the text follows a
        special token · plain …: nothing becomes a special token."""
        if name == "whole":
            return self.rust
        source = json.loads(self._source)
        source["padding"] = source["truncation"] = None
        if name.startswith("continued"):
            source = _without_first_word(source)
        elif name == "after":
            source = _without_first_word(source, after_special=True)
        made = RustTokenizer.from_str(json.dumps(source))
        made.encode_special_tokens = name != "continued"
        return made

    # ------------------------------------------------------------ decoding, saving

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return self.rust.decode(list(ids), skip_special_tokens=skip_special)

    def decode_stream(self, skip_special: bool = True) -> StreamDecoder:
        """Decodes token by token; never yields half a character."""
        return StreamDecoder(self.rust, skip_special)

    def save(self, path: Path, chat_template: str | None = None) -> None:
        """Writes the tokenizer's files and one chat template into a directory."""
        for name in FILES:
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, Path(path) / name)
        config = {k: v for k, v in self.config.items() if k not in ("chat_template", "auto_map")}
        text = json.dumps(config, ensure_ascii=False, indent=2)
        (Path(path) / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        if chat_template:
            (Path(path) / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


class StreamDecoder:
    """Text of tokens as they come, held back until it is whole characters."""

    def __init__(self, rust: RustTokenizer, skip_special: bool):
        self._rust = rust
        self._stream = DecodeStream(skip_special_tokens=skip_special)

    def push(self, token: int) -> str:
        """The text this token completes; empty while a character is unfinished."""
        return self._stream.step(self._rust, token) or ""


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _alternatives(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first; nothing if there are none."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _without_first_word(source: dict[str, Any], *, after_special: bool = False) -> dict[str, Any]:
    """A tokenizer.json that treats the first word like any other.

    Args:
        source: Parsed tokenizer.json; not changed.
        after_special: Keep what Rust does after every special token too: all but the rule
            `first`, which looks at the whole text.
    """
    source = copy.deepcopy(source)
    if not after_special:
        source["normalizer"] = _drop_prepend(source.get("normalizer"))
    source["pre_tokenizer"] = _never_prepend(source.get("pre_tokenizer"), after_special)
    return source


def _drop_prepend(node: dict[str, Any] | None) -> dict[str, Any] | None:
    if node is None or node["type"] == "Prepend":
        return None
    if node["type"] == "Sequence":
        kept = [_drop_prepend(part) for part in node["normalizers"]]
        return {**node, "normalizers": [part for part in kept if part is not None]}
    return node


def _never_prepend(node: dict[str, Any] | None, only_first: bool) -> dict[str, Any] | None:
    if node is None:
        return None
    if node["type"] == "Sequence":
        parts = [_never_prepend(part, only_first) for part in node["pretokenizers"]]
        return {**node, "pretokenizers": parts}
    if node["type"] == "Metaspace" and (not only_first or node.get("prepend_scheme") == "first"):
        return {**node, "prepend_scheme": "never"}
    if node["type"] == "ByteLevel" and not only_first:
        return {**node, "add_prefix_space": False}
    return node

"""Scores of every row of a file, a JSON line a row, in order; an interrupted scoring goes on.

    {"chosen": 1.23, "rejected": -0.4}      a pair
    {"score": 0.7}                          a conversation, or a text
    {"chosen": null, "rejected": null, "problem": "…", "where": "pairs.jsonl:7"}

Lines go to a file aside whose name holds a hash of the model, the data and the encoding: what
another model began is never gone on with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith import platform
from tunesmith.compose.scoring import Scorer
from tunesmith.data import read
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Document, Encoded, Example, Feedback, Preference, Sample

CHUNK = 64
"""Rows scored together, and written before the next ones are begun."""
ACCEPTS = (Preference, Feedback, Conversation, Document)
DETECT_ROWS = 16
Say = Callable[[str, str], None]


class Line(NamedTuple):
    """A row to score: its names in the output and what they say, or why there is nothing."""

    sides: dict[str, Encoded]
    where: str

    @property
    def problem(self) -> str:
        return next((one.problem for one in self.sides.values() if one.problem), "")


@dataclass
class Summary:
    """What was scored, and the sums of it."""

    rows: int = 0
    scored: int = 0
    not_scored: int = 0
    truncated: int = 0
    """Tokens that the length policy cut away."""
    pairs: int = 0
    ranked: int = 0
    """Pairs whose chosen answer scores higher; ties count as wrong."""
    chosen: float = 0.0
    rejected: float = 0.0
    single: float = 0.0

    def add(self, line: dict[str, Any]) -> None:
        self.rows += 1
        if line.get("problem"):
            self.not_scored += 1
            return
        self.scored += 1
        if "score" in line:
            self.single += line["score"]
            return
        self.pairs += 1
        self.chosen += line["chosen"]
        self.rejected += line["rejected"]
        self.ranked += line["chosen"] > line["rejected"]

    def facts(self) -> dict[str, Any]:
        """Means; only those that there is something to make of."""
        found: dict[str, Any] = {"rows": self.rows, "not_scored": self.not_scored}
        if self.pairs:
            chosen, rejected = self.chosen / self.pairs, self.rejected / self.pairs
            means = {"chosen": chosen, "rejected": rejected, "margin": chosen - rejected}
            found |= {"accuracy": self.ranked / self.pairs, **means}
        if singles := self.scored - self.pairs:
            found["score"] = self.single / singles
        return {**found, "truncated_tokens": self.truncated}


def score_file(scorer: Scorer, data: str | Path, out: Path, say: Say) -> Summary:
    """Scores the rows of a file or folder into a JSON Lines file.

    Args:
        scorer: The reward model.
        data: What `data.read.rows` reads; pairs, conversations or texts, detected.
        out: Where to; it gets its name when it is whole.
        say: Is told (topic, text) what was found and how far it is.

    Raises:
        ConfigError: C197, `out` is there already.
        DataError: D1xx, the file can't be read; D120, its format is not known.
    """
    if out.exists():
        raise ConfigError(
            "C197", f"{out} is there already", where="--output", fix="choose another file"
        )
    aside = out.with_name(f"{out.name}.{_key(scorer, data)[:12]}.part")
    found = kept(aside)
    if found:
        say("resume", f"{len(found):,} lines are there from before: {aside.name}")
    summary = Summary()
    for line in found:
        summary.add(line)
    try:
        with aside.open("a", encoding="utf-8") as file:
            for number, chunk in enumerate(_chunks(lines(scorer, data, say), CHUNK)):
                summary.truncated += sum(e.truncated for row in chunk for e in row.sides.values())
                if number < len(found) // CHUNK:
                    continue
                for line in scored(scorer, chunk):
                    summary.add(line)
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                say("scored", f"{summary.rows:,} rows")
    finally:
        if aside.is_file() and not aside.stat().st_size:
            aside.unlink()  # nothing was begun
    aside.replace(out)
    return summary


def _chunks(rows: Iterator[Line], size: int) -> Iterator[tuple[Line, ...]]:
    """Rows by `size`, the last ones fewer (itertools.batched of Python 3.12)."""
    while chunk := tuple(itertools.islice(rows, size)):
        yield chunk


def kept(aside: Path) -> list[dict[str, Any]]:
    """Whole chunks of lines that an interrupted scoring left; what follows them is cut off."""
    if not aside.is_file():
        return []
    text = aside.read_bytes()
    whole = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
    whole = whole[: len(whole) // CHUNK * CHUNK]
    with aside.open("r+b") as file:
        file.truncate(sum(map(len, whole)))
    return [json.loads(line) for line in whole]


def _key(scorer: Scorer, data: str | Path) -> str:
    """A hash of everything that a line depends on."""
    parts = dataclasses.asdict(dataclasses.replace(scorer.parts, template=None))
    facts = {
        **parts,
        "template": scorer.parts.template.source_hash,
        "tokenizer": scorer.parts.template.tokenizer.hash,
        "model": scorer.sha256,
        "dtype": str(scorer.model.compute_dtype),
        "data": read.content_hash(str(data)),
        "torch": platform.torch_version(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- rows


def lines(scorer: Scorer, data: str | Path, say: Say) -> Iterator[Line]:
    """The rows of a file, encoded; a bad row is a line with a problem."""
    found = _each_row(data)
    first = list(itertools.islice(found, DETECT_ROWS))
    good = [row for row in first if isinstance(row, Row)]
    if not good:
        nothing = DataError("D203", "there are no rows to score", where=str(data), fix="add some")
        raise next((row for row in first if isinstance(row, DataError)), nothing)
    name = formats.detect(good, None, ACCEPTS)
    reader, config = formats.load(name), DataConfig()
    say("data", f"{data}: {name} (detected)")
    names = ("chosen", "rejected") if reader.SAMPLE is Preference else ("score",)
    if reader.SAMPLE is Document:
        say("note", "plain texts are scored without a chat template, ended by EOS")
    for row in itertools.chain(first, found):
        try:
            if isinstance(row, DataError):
                raise row
            for sample in formats.samples(reader, row, {}, config):
                encoded = {name: scorer.encode(side) for name, side in sides(sample).items()}
                yield Line(encoded, row.where)
        except DataError as error:
            yield Line({name: Encoded(problem=error.what) for name in names}, error.where)


def _each_row(data: str | Path) -> Iterator[Row | DataError]:
    """Rows and, at their places, what is wrong with those that can't be read."""
    bad: list[DataError] = []
    for row in read.rows(data, on_bad=bad.append):
        yield from bad
        bad.clear()
        yield row
    yield from bad


def sides(sample: Sample) -> dict[str, Conversation | Document]:
    """What there is to score in a sample, by its name in the output."""
    if isinstance(sample, Preference):
        before, tools = sample.prompt.messages, sample.prompt.tools
        both = {"chosen": sample.chosen, "rejected": sample.rejected}
        return {name: Conversation((*before, *said), tools) for name, said in both.items()}
    return {"score": sample.conversation if isinstance(sample, Feedback) else sample}


def scored(scorer: Scorer, chunk: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """Output lines of rows, in order; all their examples go through the model together."""
    examples: list[Example] = []
    for row in chunk:
        if not row.problem:
            examples += [one.examples[0] for one in row.sides.values()]
    values = iter(scorer.scores(examples))
    for row in chunk:
        if row.problem:
            yield {**dict.fromkeys(row.sides), "problem": row.problem, "where": row.where}
        else:
            yield {name: round(next(values), 6) for name in row.sides}

"""New words for a vocabulary: from a list, or trained on a corpus by BPE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer as Rust, models, pre_tokenizers, trainers

from tunesmith.data import read
from tunesmith.errors import ConfigError, DataError

# Scripts that put no spaces between words, as character classes of Oniguruma. `cjk` has the ranges
# that SentencePiece's Chinese expansions keep (unified ideographs, extensions, compatibility).
SCRIPTS = {
    "cjk": r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
    r"\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}",
    "japanese": r"\p{Han}\p{Hiragana}\p{Katakana}ー",
    "khmer": r"\p{Khmer}",
    "lao": r"\p{Lao}",
    "myanmar": r"\p{Myanmar}",
    "thai": r"\p{Thai}",
}
COVERAGE = 0.9995
"""Share of a corpus' characters that get into the vocabulary; the rarest are left out."""
MAX_CHARACTERS = 16
"""Longest trained piece: beyond are names of institutions and boilerplate."""


def read_words(path: Path) -> list[str]:
    """The words of a file, one a line, in its order; blank lines don't count.

    Raises:
        DataError: D101, there is no such file; D103, it is not UTF-8; D102, it has no words.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        what = f"the word list can't be read: {error.strerror or error}"
        raise DataError("D101", what, where=str(path), fix="check --words") from None
    except UnicodeDecodeError as error:
        raise DataError(
            "D103", f"the word list is not UTF-8: {error}", where=str(path), fix="iconv -t UTF-8"
        ) from None
    words = [line.strip() for line in text.splitlines()]
    words = [word for word in words if word]
    if not words:
        raise DataError("D102", "the word list is empty", where=str(path), fix="one word a line")
    return words


def train(corpus: Path, vocab_size: int, script: str) -> list[str]:
    """Pieces that BPE finds in the runs of one script in a corpus, characters first.

    Args:
        corpus: Data file or folder of any format; all text in it counts.
        vocab_size: Pieces, single characters included.
        script: A key of SCRIPTS.

    Raises:
        ConfigError: C223, no such script, or too few pieces.
        DataError: D101 to D110, the corpus can't be read; D203, it has nothing in this script.
    """
    if script not in SCRIPTS:
        raise ConfigError(
            "C223",
            f"no script {script!r}",
            where="--script",
            why="Words of scripts with spaces between words are given as a list: --words.",
            fix=f"known: {', '.join(SCRIPTS)}",
        )
    if vocab_size < 1:
        raise ConfigError("C223", f"{vocab_size} pieces", where="--vocab-size", fix="8000")
    cut = pre_tokenizers.Split(Regex(f"[^{SCRIPTS[script]}]+"), "removed")
    counts: Counter[str] = Counter()
    for text in texts(corpus):
        counts.update("".join(run for run, _ in cut.pre_tokenize_str(text)))
    if not counts:
        raise DataError(
            "D203", f"the corpus has no text in the script {script}", where=str(corpus),
            fix="check --corpus and --script",
        )  # fmt: skip
    rust = Rust(models.BPE())
    rust.pre_tokenizer = cut
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        limit_alphabet=_covering(counts),
        max_token_length=MAX_CHARACTERS,
        show_progress=False,
    )
    rust.train_from_iterator(texts(corpus), trainer)
    found = sorted(rust.get_vocab().items(), key=lambda pair: pair[1])
    return [piece for piece, _ in found[:vocab_size]]


def texts(corpus: Path) -> Iterator[str]:
    """Every string of every row."""
    for row in read.rows(corpus):
        yield from _strings(row.value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from _strings(child)


def _covering(counts: Counter[str]) -> int:
    """How many of the most frequent characters make up COVERAGE of all."""
    wanted, seen = COVERAGE * counts.total(), 0
    for number, (_, count) in enumerate(counts.most_common(), 1):
        seen += count
        if seen >= wanted:
            return number
    return len(counts)

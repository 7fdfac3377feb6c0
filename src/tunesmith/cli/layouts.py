"""The forms in which other tools write their answers: `generate --to`.

Names are those of the tools, as in `config import --from`; what a layout has no place for is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.registry import did_you_mean

Line = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A form of lines.

    Attributes:
        shape: As it looks, for those who choose.
        keys: Its keys, each with what stands under it: `prompt`, `reference` or `answer`; empty:
            our own lines as they are.
        array: One JSON array instead of a line a row.
    """

    shape: str
    keys: tuple[tuple[str, str], ...] = ()
    array: bool = False

    def row(self, line: Line) -> Line:
        """One of our lines in this form; a reference that is not there is an empty text."""
        if not self.keys:
            return line
        found = {
            "prompt": question(line),
            "reference": line.get("reference") or "",
            "answer": line["answer"],
        }
        return {key: found[what] for key, what in self.keys}

    def written(self, lines: Iterable[Line]) -> Iterator[str]:
        """The text of a file, in pieces: one a line, and the array's brackets."""
        shown = (json.dumps(self.row(line), ensure_ascii=False) for line in lines)
        if not self.array:
            yield from (f"{text}\n" for text in shown)
            return
        begun = "[\n"
        for text in shown:
            yield f"{begun}{text}"
            begun = ",\n"
        yield "[]\n" if begun == "[\n" else "\n]\n"

    def lost(self, lines: Iterable[Line]) -> list[str]:
        """What of some of these lines has no place in this form."""
        if not self.keys:
            return []
        turns = thoughts = cut = 0
        for line in lines:
            turns += "messages" in line
            thoughts += "reasoning_content" in line
            cut += line["finish_reason"] == "length"
        found = []
        if turns and any(what == "prompt" for _, what in self.keys):
            what = "row(s) have system prompts or earlier turns: only the last question is written"
            found.append(f"{turns:,} {what}")
        if thoughts:
            found.append(f"{thoughts:,} answer(s) have thoughts, which are left out")
        if cut:
            found.append(f"{cut:,} answer(s) end at their longest length, which is not written")
        return found


def question(line: Line) -> str:
    """What was asked last."""
    return line["prompt"] if "prompt" in line else line["messages"][-1]["content"]


_PAIRS: Callable[..., tuple[tuple[str, str], ...]] = lambda **keys: tuple(keys.items())
LAYOUTS: dict[str, Layout] = {
    "tunesmith": Layout('{"prompt", "reference", "answer", "finish_reason", …}'),
    "llamafactory": Layout('{"label", "predict"}', _PAIRS(label="reference", predict="answer")),
    "paddlenlp": Layout('{"output", "tgt"}', _PAIRS(output="answer", tgt="reference")),
    "paddlenlp_predictor": Layout(
        '{"src", "tgt", "output"}', _PAIRS(src="prompt", tgt="reference", output="answer")
    ),
    "llm_tuning": Layout(
        '{"prompt", "target", "prediction"}',
        _PAIRS(prompt="prompt", target="reference", prediction="answer"),
    ),
    "chinese_alpaca": Layout(
        '[{"Input", "Output"}], a JSON array', _PAIRS(Input="prompt", Output="answer"), array=True
    ),
}
OURS = "tunesmith"


def layout(name: str | None) -> Layout:
    """The layout of that name; None: ours.

    Raises:
        ConfigError: G130, there is none.
    """
    if name is None:
        return LAYOUTS[OURS]
    if name in LAYOUTS:
        return LAYOUTS[name]
    shapes = " · ".join(f"{known} {made.shape}" for known, made in LAYOUTS.items())
    fix = f"{did_you_mean(name, tuple(LAYOUTS))}  {shapes}".strip()
    raise ConfigError("G130", f"no layout is called `{name}`", where="--to", fix=fix)

"""`tunesmith generate`: answers to one prompt, or to every row of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.answer_file import AnswerFile, answer_all, made_with
from tunesmith.cli.answering import Voice, visible, with_sampling
from tunesmith.errors import ConfigError, DataError
from tunesmith.types import Conversation, Message, Request

app = output.app(
    examples=[
        'tunesmith generate last -p "What is the capital of France?"',
        'tunesmith generate builtin:tiny --raw -p "Once upon a time" --max-tokens 100',
        "tunesmith generate last --input questions.jsonl --output answers.jsonl",
        'tunesmith generate last -p "Name a colour" --temperature 1 --seed 3 --json',
        "tunesmith generate last --input people.jsonl --output found.jsonl --schema person.json",
    ],
)


@app.command()
@with_sampling
def command(
    model: Annotated[str, typer.Argument(help="Run, directory, builtin: or hub id.")] = "last",
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="- reads stdin.")] = None,
    input: Annotated[str | None, typer.Option(help="Rows: {prompt}, or any chat format.")] = None,
    output_: Annotated[Path | None, typer.Option("--output", help="JSON Lines file.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text, no chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    json: Annotated[bool, output.JSON] = False,
    sampling: dict | None = None,
) -> None:
    """Answer a prompt, or every row of a file: one output line a row, in their order.

    Interrupted, the same command goes on after the last answered row.
    """
    if (prompt is None) == (input is None):
        raise ConfigError(
            "C213", "say what to answer: -p or --input, one of the two", where="command line"
        )
    if output_ is not None and output_.exists():
        raise ConfigError("C212", f"{output_} is there already", fix="choose another file")
    if input is None:
        text = sys.stdin.read() if prompt == "-" else str(prompt)
        questions = [Question(text, (Message.of("user", text),))]
    else:
        questions = list(read(input, raw))
    voice = Voice.load(model, sampling or {})
    ids = [question.ids(voice, raw, system) for question in questions]
    if input is None and output_ is None:
        voice.sampling = replace(voice.sampling, logprob=json)
        _one(voice, questions[0], voice.request("answer", ids[0]), json)
        return
    told = made_with(voice, raw=raw, system=system, schema=voice.schema)
    file = AnswerFile(output_, told)
    file.check([question.line() for question in questions])
    requests = [voice.request(str(at), one) for at, one in enumerate(ids)]
    splits = [voice.split(one) for one in ids]
    answer_all(voice, requests, file, lambda at, events: _line(questions[at], events, splits[at]))


@dataclass(frozen=True)
class Question:
    """A prompt, as text and as a conversation, and where it was found."""

    text: str
    messages: tuple[Message, ...]
    reference: str | None = None
    where: str = ""

    def ids(self, voice: Voice, raw: bool, system: str | None) -> tuple[int, ...]:
        """What is sent for it; refused here, with its line, if it can't be answered."""
        ids = voice.raw_ids(self.text) if raw else voice.chat_ids(self.messages, system)
        try:
            voice.generator.check(Request("check", ids, voice.sampling))
        except DataError as error:
            error.where = self.where
            raise
        return ids

    def line(self) -> dict[str, Any]:
        """The part of an output line that comes from the input."""
        only = len(self.messages) == 1 and self.messages[0].role == "user"
        shown = [{"role": m.role, "content": m.text} for m in self.messages]
        asked = {"prompt": self.text} if only else {"messages": shown}
        return asked if self.reference is None else {**asked, "reference": self.reference}


def read(path: str, raw: bool) -> Iterator[Question]:
    """Questions of a file: plain text, `{"prompt": …}`, or rows of any format with conversations;
    an answer that stands last is the reference.

    Raises:
        DataError: D1xx, the file or a row can't be read; D403, a row asks nothing.
    """
    from tunesmith.data import read as reading
    from tunesmith.data.formats import base as formats
    from tunesmith.recipe.sections import DataConfig

    reader = None
    for row in reading.rows(path):
        value = row.value
        if isinstance(value, str):
            yield Question(value, (Message.of("user", value),), where=row.where)
        elif isinstance(value.get("prompt"), str):
            text, reference = value["prompt"], value.get("completion")
            reference = reference if isinstance(reference, str) else None
            yield Question(text, (Message.of("user", text),), reference, row.where)
        elif raw:
            raise DataError("D403", "--raw wants rows of text or with `prompt`", where=row.where)
        else:
            reader = reader or formats.load(formats.detect([row], None, (Conversation,)))
            for sample in formats.samples(reader, row, {}, DataConfig()):
                yield _of_sample(sample, row.where)


def _of_sample(sample: Any, where: str) -> Question:
    if not isinstance(sample, Conversation):
        raise DataError(
            "D403", "only conversations can be answered", where=where, fix='rows like {"prompt": …}'
        )
    messages, reference = sample.messages, None
    if messages and messages[-1].role == "assistant":
        messages, reference = messages[:-1], messages[-1].text
    if not messages:
        raise DataError("D403", "the row asks nothing", where=where)
    return Question(messages[-1].text, messages, reference, where)


def _one(voice: Voice, question: Question, request: Request, json: bool) -> None:
    """Streams the answer to stdout, or prints all there is to say about it as JSON."""
    events = []
    for event in voice.stream(request):
        events.append(event)
        if not json:
            print(visible(event.text_delta), end="", flush=True)
    if json:
        tokens = [{"id": event.token, "logprob": event.logprob} for event in events]
        line = _line(question, events, voice.split(request.ids))
        output.result({**line, "tokens": tokens}, json=True)
    else:
        print()


def _line(question: Question, events: list, split: Any) -> dict[str, Any]:
    """An output line; thoughts stand apart from the answer, as OpenAI-like servers have them."""
    from tunesmith.generation import base

    first, last = split.step(base.text(events)), split.finish()
    thought = first.thought + last.thought
    said = {"reasoning_content": thought} if thought else {}
    said |= {"answer": first.said + last.said, "finish_reason": events[-1].finish_reason}
    return {**question.line(), **said, "answer_tokens": len(events)}

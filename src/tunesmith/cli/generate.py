"""`tunesmith generate`: answers to one prompt, or to every row of a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.answer_file import AnswerFile, answer_all, made_with, print_all
from tunesmith.cli.answering import Voice, visible, with_options
from tunesmith.cli.data_files import source_of
from tunesmith.cli.layouts import LAYOUTS, layout
from tunesmith.cli.questions import Question, read
from tunesmith.errors import ConfigError, DataError
from tunesmith.types import Event, Message, Request

app = output.app(
    examples=[
        'tunesmith generate last -p "What is the capital of France?"',
        'tunesmith generate builtin:tiny --raw -p "Once upon a time" --max-tokens 100',
        "tunesmith generate last --input questions.jsonl --output answers.jsonl",
        "tunesmith generate last --input test.json -o predictions.jsonl --to llamafactory",
        'tunesmith generate last -p "Name a colour" --temperature 1 --seed 3 --json',
        "tunesmith generate last --input people.jsonl --output found.jsonl --schema person.json",
    ],
)


FILES: dict[str, Any] = {
    "to": Annotated[str | None, typer.Option(help=f"Layout of answers: {', '.join(LAYOUTS)}.")],
    "format": Annotated[
        str | None, typer.Option(help="Row format of the input; default: detected.")
    ],
    "columns": Annotated[
        str | None, typer.Option(help="Columns by role, e.g. prompt=frage,completion=antwort.")
    ],
    "system": Annotated[str | None, typer.Option(help="System prompt.")],
}
"""How rows are read and answers are written."""


@app.command()
@with_options(FILES)
def command(
    model: Annotated[str, typer.Argument(help="Run, directory, builtin: or hub id.")] = "last",
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="- reads stdin.")] = None,
    input: Annotated[str | None, typer.Option(help="Rows of any data format, or text.")] = None,
    output_: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where answers go.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text, no chat template.")
    ] = False,
    json: Annotated[bool, output.JSON] = False,
    sampling: dict | None = None,
    more: dict | None = None,
) -> None:
    """Answer a prompt, or every row of a file: one output line a row, in their order.

    Interrupted, the same command goes on after the last answered row.
    """
    if (prompt is None) == (input is None):
        raise ConfigError(
            "C213", "say what to answer: -p or --input, one of the two", where="command line"
        )
    to, format, columns, system = ((more or {}).get(name) for name in FILES)
    chosen = layout(to)
    if output_ is not None and output_.exists():
        raise ConfigError("C212", f"{output_} is there already", fix="choose another file")
    if output_ is not None and not output_.absolute().parent.is_dir():
        what = f"there is no folder {output_.parent}"
        raise ConfigError("C212", what, where="--output", fix="make it, or choose another")
    if input is None:
        text = sys.stdin.read() if prompt == "-" else str(prompt)
        questions = [Question(text, (Message.of("user", text),))]
    else:
        questions = list(read(source_of(input, format, columns), raw))
    voice = Voice.load(model, sampling or {})
    ids = [_ids(question, voice, raw, system) for question in questions]
    if input is None and output_ is None and to is None:
        voice.sampling = replace(voice.sampling, logprob=json)
        _one(voice, questions[0], voice.request("answer", ids[0]), json)
        return
    requests = [voice.request(str(at), one) for at, one in enumerate(ids)]

    def line_of(at: int, events: list[Event]) -> dict[str, Any]:
        return _line(questions[at], events, voice.split(ids[at]))

    if output_ is None:
        print_all(voice, requests, chosen, line_of)
        return
    told = made_with(voice, raw=raw, system=system, schema=voice.schema)
    with AnswerFile(output_, told) as file:
        file.check([question.line() for question in questions])
        answer_all(voice, requests, file, chosen, line_of)


def _ids(question: Question, voice: Voice, raw: bool, system: str | None) -> tuple[int, ...]:
    """What is sent for a question; refused here, with its line, if it can't be answered."""
    try:
        ids = voice.raw_ids(question.text) if raw else voice.chat_ids(question.messages, system)
        voice.generator.check(Request("check", ids, voice.sampling))
    except DataError as error:
        error.where = question.where or error.where
        raise
    return ids


def _one(voice: Voice, question: Question, request: Request, json: bool) -> None:
    """Streams the answer to stdout, or prints all there is to say about it as JSON."""
    events = []
    for event in voice.stream(request) if voice.beams is None or not json else ():
        events.append(event)
        if not json:
            print(visible(event.text_delta), end="", flush=True)
    if json and voice.beams is not None:
        found = next(voice.answers([request]))
        line = _line(question, found.events, voice.split(request.ids))
        output.result({**line, **found.more}, json=True)
    elif json:
        tokens = [{"id": event.token, "logprob": event.logprob} for event in events]
        line = _line(question, events, voice.split(request.ids))
        output.result({**line, "tokens": tokens}, json=True)
    else:
        print()
    if guesses := voice.guessed():
        output.log(f"note    {guesses}")


def _line(question: Question, events: list, split: Any) -> dict[str, Any]:
    """An output line; thoughts stand apart from the answer, as OpenAI-like servers have them."""
    from tunesmith.generation import base

    first, last = split.step(base.text(events)), split.finish()
    thought = first.thought + last.thought
    said = {"reasoning_content": thought} if thought else {}
    said |= {"answer": first.said + last.said, "finish_reason": events[-1].finish_reason}
    return {**question.line(), **said, "answer_tokens": len(events)}

"""`tunesmith score`: what a reward model thinks of pairs, conversations or texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output

app = output.app(
    examples=[
        "tunesmith score last pairs.jsonl -o scores.jsonl",
        "tunesmith score reward-run@step-100 pairs.jsonl -o early.jsonl --json",
        "tunesmith score last chats.jsonl -o chat-scores.jsonl",
    ],
)


@app.command()
def command(
    model: Annotated[str, typer.Argument(help="Run of stage reward, or a classifier's folder.")],
    data: Annotated[str, typer.Argument(help="Pairs, conversations or texts: any known format.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="JSON Lines, a line a row.")],
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """Score every row of a file; of pairs the accuracy is told, too. Run it again to go on after
    an interruption."""
    from tunesmith.compose import score_file, scoring

    say = lambda topic, text: output.log(f"{topic:<7} {text}")
    scorer = scoring.load(model, dtype=dtype, say=say)
    found = score_file.score_file(scorer, data, out, say)
    facts = {**found.facts(), "output": str(out)}
    output.result(facts, json=json)
    if found.not_scored:
        output.log(f"note    {found.not_scored:,} rows could not be scored; their lines say why")

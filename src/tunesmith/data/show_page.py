"""What `data inspect` shows as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data import show_pairs
from tunesmith.data.show import SIDES, notes, told
from tunesmith.data.unseen import printable

TITLES = {
    "token": "a control token",
    "spelled": "plain text that spells a control token",
    "cut": "tokens are missing here",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
pre { white-space: pre-wrap; border: 1px solid #8884; border-radius: 6px; padding: .8rem }
mark { background: #2e7d3233; color: inherit; border-bottom: 2px solid #2e7d32 }
h1 { font-size: 1.4rem } h1, h2, h3, pre { overflow-wrap: anywhere }
.token { font-weight: 600; color: #5e35b1 } .spelled { outline: 1px dashed #c62828 }
.cut { background: #b26a0044; padding: 0 .3em }
h2 { font-size: 1rem; margin: 2rem 0 .3rem } h3 { font-size: .85rem; margin: .6rem 0 .2rem }
section { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem }
section > * { grid-column: 1 / -1; min-width: 0 } section > .half { grid-column: auto }
section pre { margin: 0 }
@media (max-width: 45rem) { section { grid-template-columns: 1fr } }
 .MAJOR { color: #c62828 } .MINOR { color: #b26a00 }
"""


def page(
    title: str, lines: Sequence[str], findings: Sequence[Mapping[str, Any]], shown: Sequence[Any]
) -> str:
    """The file; every text of the data is escaped."""
    esc = lambda text: html.escape(printable(text))
    body = [f"<h1>{esc(title)}</h1>", f"<pre>{esc(chr(10).join(lines))}</pre>", "<ul>"]
    for one in findings:
        text = f"{one['level']} · {one['check']}: {one['text']}"
        body.append(f"<li class='{one['level']}'>{esc(text)}</li>")
    body.append("</ul>")
    body += [f"<p>{esc(text)}</p>" for text in notes(shown)]
    for block in show_pairs.blocks(shown):
        note = f" · {block.note}" if block.note else ""
        body.append(f"<section><h2>{esc(block.where + note)}</h2>")
        body += [_part(part) for part in block.parts]
        body.append("</section>")
    head = f"<meta charset=utf-8><title>{esc(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _part(part: show_pairs.Part) -> str:
    """One text with its title; the answers of a pair stand beside each other."""
    title = " · ".join(text for text in (part.title, part.note) if text)
    marked = []
    for span in part.spans:
        text = html.escape(told(span))
        if span["kind"] != "text":
            text = f"<span class={span['kind']} title='{TITLES[span['kind']]}'>{text}</span>"
        marked.append(f"<mark>{text}</mark>" if span["weight"] else text)
    half = " class=half" if part.title in SIDES else ""
    return f"<div{half}><h3>{html.escape(title)}</h3><pre>{''.join(marked)}</pre></div>"

"""What `data inspect` shows as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.show import notes, told
from tunesmith.data.unseen import printable

TITLES = {
    "token": "a control token",
    "spelled": "plain text that spells a control token",
    "cut": "tokens are missing here",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { white-space: pre-wrap; border: 1px solid #8884; border-radius: 6px; padding: .8rem }
mark { background: #2e7d3233; color: inherit; border-bottom: 2px solid #2e7d32 }
h1 { font-size: 1.4rem } h1, h2, pre { overflow-wrap: anywhere }
.token { font-weight: 600; color: #5e35b1 } .spelled { outline: 1px dashed #c62828 }
.cut { background: #b26a0044; padding: 0 .3em }
h2 { font-size: 1rem; margin-bottom: .3rem } .MAJOR { color: #c62828 } .MINOR { color: #b26a00 }
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
    for row in shown:
        side = f" · {row['side']}" if row["side"] else ""
        body.append(f"<h2>{esc(row['where'] + side)} · {len(row['ids']):,} tokens</h2><pre>")
        for span in row["spans"]:
            text = html.escape(told(span))
            if span["kind"] != "text":
                text = f"<span class={span['kind']} title='{TITLES[span['kind']]}'>{text}</span>"
            body.append(f"<mark>{text}</mark>" if span["weight"] else text)
        body.append("</pre>")
    head = f"<meta charset=utf-8><title>{esc(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"

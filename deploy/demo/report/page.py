"""The report: a headline and tables in the terminal, and one HTML page with plots."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from monolith_demo.report.measures import Headline
from monolith_demo.report.provenance import Provenance
from monolith_demo.report.tables import ReportTable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
.figures { display: flex; flex-wrap: wrap; gap: 1rem } .figures div { flex: 1 1 9rem; background: #f0f6f4; padding: .6rem .8rem }
.figures b { display: block; font-size: 1.6rem; color: #0a7d5a } .small, .note { color: #666; font-size: .87rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem }
figure { margin: .8rem 0 } figcaption { font-weight: 600 }
img { width: 100% } .wide { overflow-x: auto } .note { margin: 0 0 1.5rem }
table { border-collapse: collapse; margin: 1rem 0 .3rem } caption { text-align: left; font-weight: 600; padding: .3rem 0 }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .8rem .25rem 0; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left; white-space: normal }
code, pre { background: #f4f4f4; padding: .1rem .3rem } pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem .8rem }
@media (max-width: 600px) { td, th { padding-right: .3rem; font-size: .7rem } th { white-space: normal } }
"""


@dataclass(frozen=True)
class Contents:
    """Measured part of a report."""

    headline: Headline
    tables: Sequence[ReportTable]
    plots: Mapping[str, bytes]  # PNG by title


@dataclass(frozen=True)
class Surroundings:
    """Text of the report beside its contents."""

    provenance: Provenance
    notes: Sequence[str]  # on how the run was done
    commands: Sequence[str]  # to try next


def write_html(contents: Contents, around: Surroundings, path: Path) -> None:
    """Write the report to `path` as one HTML page without other files."""
    headline = contents.headline
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>monolith demo</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(headline.answer)}</h1>",
        "<div class='figures'>",
        *(f"<div><b>{html.escape(value)}</b>{html.escape(name)}</div>" for name, value in headline.figures),
        "</div>",
        f"<p class='small'>{html.escape(str(around.provenance))}</p>",
        *(f"<p>{html.escape(note)}</p>" for note in around.notes),
        "<div class='plots'>",
        *(_figure(title, png) for title, png in contents.plots.items()),
        "</div>",
        *(_html_table(table) for table in contents.tables),
        f"<h2>To try next</h2><pre>{html.escape(chr(10).join(around.commands))}</pre>",
    ]
    path.write_text("\n".join(parts) + "\n")


def print_report(contents: Contents, provenance: Provenance, console: Console) -> None:
    """Print the headline, the provenance and the tables."""
    headline = contents.headline
    console.print()
    console.print(headline.answer, style="bold", markup=False)
    for name, value in headline.figures:
        console.print(f"  {value:>10}  {name}", markup=False)
    console.print(str(provenance), style="dim", markup=False)
    for table in contents.tables:
        console.print()
        console.print(table.as_rich())
        if table.note:
            console.print(table.note, style="dim", markup=False)


def _figure(title: str, png: bytes) -> str:
    text, data = html.escape(title), base64.b64encode(png).decode()
    return f"<figure><figcaption>{text}</figcaption><img alt='{text}' src='data:image/png;base64,{data}'></figure>"


def _html_table(table: ReportTable) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    caption = f"<caption>{html.escape(table.title)}</caption>"
    note = f"<p class='note'>{html.escape(table.note)}</p>" if table.note else ""
    return f"<div class='wide'><table>{caption}<tr>{head}</tr>{body}</table></div>{note}"

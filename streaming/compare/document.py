"""Comparison as a JSON document and as one HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from monolith_streaming.compare.arms import Comparison
from monolith_streaming.compare.figures import ArmFigures, Difference, Estimate

FIGURE_COLUMNS = ("task", "arm", "requests", "candidates", "positives", "AUC", "NE", "calibration")
DIFFERENCE_COLUMNS = ("task", "arm", "less", "candidates", "AUC", "NE", "calibration", "")
NOTE = (
    "Scores at request time against final labels; 95 % intervals by 200 resamples of users. NE: log loss / log loss of the mean label, "
    "lower is better; of a regression, squared error on its scale / that of the mean label. Calibration: mean score / mean label. "
    "Negatives that were sampled count 1 / rate times. A shadow is compared on the "
    "requests that the other arm served, pair by pair; an arm with users of its own is compared without pairs."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600; padding: .3rem 0 }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .8rem .25rem 0; text-align: right; white-space: nowrap }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left } .wide { overflow-x: auto } p { color: #555 }
"""


def title_of(comparison: Comparison) -> str:
    """Return a line on the range and its size."""
    num_requests, num_users = len(set(comparison.request_codes.tolist())), int(comparison.user_codes.max()) + 1
    times = f"{_date(comparison.start_ms)} to {_date(comparison.last_ms)}"
    return f"{times}: {len(comparison.labels):,} candidates of {num_requests:,} requests and {num_users:,} users"


def figure_rows(figures: Sequence[ArmFigures]) -> list[tuple[str, ...]]:
    """Return the cells of each arm and task, in the order of `FIGURE_COLUMNS`."""
    return [
        (
            one.task,
            one.arm,
            f"{one.num_requests:,}",
            f"{one.num_candidates:,}",
            f"{one.num_positives:,.0f}",
            *(_cell(estimate) for estimate in (one.auc, one.ne, one.calibration)),
        )
        for one in figures
    ]


def difference_rows(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    """Return the cells of each difference, in the order of `DIFFERENCE_COLUMNS`."""
    return [
        (
            one.task,
            one.arm,
            one.base,
            f"{one.num_candidates:,}",
            *(_cell(estimate, sign="+") for estimate in (one.auc, one.ne, one.calibration)),
            "paired" if one.is_paired else "other users",
        )
        for one in differences
    ]


def answer_of(differences: Sequence[Difference]) -> str:
    """Return one sentence for each difference: better, worse or undecided by NE."""
    return " ".join(f"{one.arm} {_verdict(one.ne)} {one.base} in {one.task}." for one in differences)


def document(comparison: Comparison, figures: Sequence[ArmFigures], differences: Sequence[Difference]) -> dict[str, Any]:
    """Return all figures as a JSON document; one that is not defined is None."""
    found: dict[str, Any] = _without_nan(
        {
            "start_ms": comparison.start_ms,
            "last_ms": comparison.last_ms,
            "candidates": len(comparison.labels),
            "users": int(comparison.user_codes.max()) + 1,
            "arms": [asdict(one) for one in figures],
            "differences": [asdict(one) for one in differences],
        }
    )
    return found


def page(comparison: Comparison, figures: Sequence[ArmFigures], differences: Sequence[Difference]) -> str:
    """Return the comparison as one HTML page without other files."""
    return "\n".join(
        [
            "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<title>Arms of {html.escape(', '.join(comparison.tasks))}</title><style>{_STYLE}</style>",
            f"<h1>{html.escape(answer_of(differences) or 'One arm')}</h1><p>{html.escape(title_of(comparison))}</p>",
            _table("Arms", FIGURE_COLUMNS, figure_rows(figures)),
            _table("Differences", DIFFERENCE_COLUMNS, difference_rows(differences)) if differences else "",
            f"<p>{html.escape(NOTE)}</p>",
            "",
        ]
    )


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><caption>{caption}</caption><tr>{head}</tr>{body}</table></div>"


def _verdict(ne: Estimate) -> str:
    if math.isnan(ne.value) or not ne.is_clear:
        return "cannot be told from"
    return "is better than" if ne.value < 0 else "is worse than"


def _cell(estimate: Estimate, sign: str = "") -> str:
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:{sign}.4f} ({estimate.low:{sign}.4f} to {estimate.high:{sign}.4f})"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _date(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"

"""Tables of the list-wise report."""

from __future__ import annotations

from monolith_demo.report.list_findings import FROZEN, LIVE, REPLICAS, ListFindings
from monolith_demo.report.tables import ReportTable, delay_table

_PART_H = 6

_MODELS_NOTE = (
    "Each candidate was predicted before any model knew its label. live: replica that follows the trainer. hourly, daily: replicas that "
    "load the trainer's newest checkpoint, one of which is written every 2 s of wall clock, at each hour or at midnight. frozen: replica "
    "that stays at the end of history, as daily does before its midnight. linear: online linear learner (Vowpal Wabbit) on the same "
    "features. item rate: running click rate of each item. oracle: the true probabilities; they know tastes, quality and positions, so no "
    "learner reaches them. per request: mean AUC within a request. NE (normalised entropy): log loss over the log loss of the mean label; "
    "below 1 is better than predicting the mean. calibration: mean prediction over mean label; 1 is exact. versions: different models "
    "that answered."
)


def list_tables(found: ListFindings) -> list[ReportTable]:
    """Return the tables of the report."""
    return [_quality_table(found), _part_table(found), delay_table(found, "11 candidates on average"), _count_table(found)]


def _quality_table(found: ListFindings) -> ReportTable:
    rows = []
    for model, quality in found.qualities.items():
        overall = quality.overall
        versions = f"{found.num_versions[model]:,}" if model in found.num_versions else ""
        values = (f"{overall.auc:.4f}", f"{quality.request_auc:.4f}", f"{overall.ne:.4f}", f"{overall.calibration:.3f}")
        rows.append((model, *values, versions))
    columns = ("", "AUC", "per request", "NE", "calibration", "versions")
    return ReportTable("Clicks on the last day", columns, rows, _MODELS_NOTE)


def _part_table(found: ListFindings) -> ReportTable:
    aucs = found.aucs_by_part(_PART_H)
    rows = [(model, *(f"{auc:.4f}" for auc in of)) for model, of in aucs.items()]
    for other in REPLICAS[1:]:
        gains = (f"{live - auc:+.4f}" for live, auc in zip(aucs[LIVE], aucs[other], strict=True))
        rows.append((f"{LIVE} - {other}", *gains))
    columns = ("", *(f"h {part * _PART_H}-{(part + 1) * _PART_H}" for part in range(len(aucs[FROZEN]))))
    return ReportTable("AUC by hours since the start of the last day, which is noon", columns, rows, "")


def _count_table(found: ListFindings) -> ReportTable:
    ledger = found.ledger
    counts = {
        "requests of history and of the live phase": found.num_requests,
        "impressions in the log": ledger.impressions,
        "candidates of these requests": found.num_candidates,
        "examples joined": ledger.examples,
        "clicks": found.num_clicks,
        "actions in the log": ledger.actions,
        "retractions joined": ledger.retractions,
        "examples and retractions trained": found.trained,
        "dead letters": ledger.dead_letters,
        "requests served live": len(found.rank_s),
        "deltas published": ledger.deltas,
    }
    note = (
        "Counted in the log and in the last checkpoint. retractions: corrections of examples that were joined as negatives before their "
        f"click arrived. dead letters: records that could not be used. The live phase took {found.live_s:.0f} s; the replay sets its rate."
    )
    return ReportTable("Records of the run", ("", "count"), [(name, f"{count:,}") for name, count in counts.items()], note)

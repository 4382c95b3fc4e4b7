"""Grafana board of a job, with every metric of monolith_py/observe/metrics.py.

python deploy/grafana/build.py        writes deploy/grafana/monolith.json; import that into Grafana

Longer than 300 lines: most of it is the list of panels.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

import monolith_py.observe.metrics  # noqa: F401 registers every metric

BOARD = Path(__file__).with_name("monolith.json")
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_NAMESPACE = '{namespace=~"$namespace"}'


@dataclass(frozen=True)
class Panel:
    """One graph: title, Grafana's unit, and PromQL by legend; metrics in it have no selector."""

    title: str
    unit: str
    queries: dict[str, str]


def rate(metric: str, by: str = "") -> str:
    """Return PromQL of the rate of a counter over all processes, split by the label `by`."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[$__rate_interval]))"


def quantile(share: float, histogram: str) -> str:
    """Return PromQL of a quantile of a histogram over all processes."""
    return f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket[$__rate_interval])))"


def quantiles(histogram: str) -> dict[str, str]:
    """Return the queries of p50 and p99 of a histogram."""
    return {"p50": quantile(0.5, histogram), "p99": quantile(0.99, histogram)}


ROWS: dict[str, list[Panel]] = {
    "Overview": [
        Panel("Processes", "short", {"{{role}}": "sum by (role) (monolith_process)"}),
        Panel("Freshness: row updated to servable", "s", quantiles("monolith_freshness_seconds")),
        Panel("Freshness: event to servable", "s", quantiles("monolith_event_freshness_seconds")),
        Panel("Age of the newest applied delta", "s", {"{{instance}} {{arm}}": "monolith_staleness_seconds > 0"}),
        Panel("Age of the model by event time", "s", {"{{instance}} {{arm}}": "monolith_event_staleness_seconds > 0"}),
        Panel("Time without all updates of the log", "s", {"{{instance}} {{arm}}": "monolith_behind_seconds > 0"}),
        Panel("AUC of served scores", "short", {"{{task}} {{arm}} {{generation}}": "monolith_served_auc"}),
        Panel("Normalised entropy of served scores (1 = the mean)", "short", {"{{task}} {{arm}} {{generation}}": "monolith_served_ne"}),
        Panel(
            "Calibration of served scores (mean score over mean label)",
            "short",
            {"{{task}} {{arm}} {{generation}}": "monolith_served_calibration_ratio"},
        ),
    ],
    "Serving": [
        Panel("Rank requests by code", "reqps", {"{{code}}": rate("monolith_rank_requests_total", "code")}),
        Panel("Rank latency", "s", quantiles("monolith_rank_duration_seconds")),
        Panel("Candidates scored", "cps", {"candidates": rate("monolith_rank_candidates_total")}),
        Panel(
            "Impressions",
            "cps",
            {
                "logged": rate("monolith_impressions_logged_total"),
                "lost {{reason}}": rate("monolith_impressions_lost_total", "reason"),
                "withheld {{reason}}": rate("monolith_impressions_withheld_total", "reason"),
            },
        ),
        Panel(
            "Stored features not served",
            "cps",
            {
                "missing {{entity}}": rate("monolith_features_missing_total", "entity"),
                "bad {{entity}}": rate("monolith_features_bad_total", "entity"),
                "unread {{entity}}": rate("monolith_features_unread_total", "entity"),
            },
        ),
        Panel("Event times ahead of the clock", "cps", {"replaced": rate("monolith_rank_times_replaced_total")}),
        Panel(
            "Replica loads and faults",
            "short",
            {
                "checkpoints loaded": "sum (increase(monolith_replica_loads_total[$__rate_interval]))",
                "digests equal": "sum (increase(monolith_replica_digests_equal_total[$__rate_interval]))",
                "fault {{reason}}": "sum by (reason) (increase(monolith_replica_faults_total[$__rate_interval]))",
            },
        ),
    ],
    "Joiner": [
        Panel(
            "Read",
            "cps",
            {"impressions": rate("monolith_impressions_read_total"), "actions": rate("monolith_actions_read_total")},
        ),
        Panel("Examples written", "cps", {"{{kind}}": rate("monolith_examples_joined_total", "kind")}),
        Panel("Behind the wall clock", "s", {"event time": "time() - (monolith_joiner_watermark_timestamp_seconds > 0)"}),
        Panel("Records not yet joined", "short", {"{{topic}} {{partition}}": "sum by (topic, partition) (monolith_input_lag_records)"}),
        Panel("Duration of a step of the joiner", "s", quantiles("monolith_joiner_step_duration_seconds")),
        Panel("Partitions owned", "short", {"{{instance}}": "monolith_joiner_partitions_owned", "all": "max (monolith_joiner_partitions)"}),
        Panel("Joiners", "short", {"joiners": "max (monolith_joiner_members)"}),
        Panel("Moves", "cps", {"shares": rate("monolith_joiner_rebalances_total"), "actions": rate("monolith_actions_forwarded_total")}),
        Panel("Requests remembered", "short", {"requests": "sum (monolith_joiner_requests)"}),
        Panel("State in memory", "bytes", {"bytes": "sum (monolith_joiner_state_bytes)"}),
        Panel("Candidates in open windows", "short", {"waiting": "sum (monolith_joiner_candidates_waiting)"}),
        Panel("Actions without an impression", "cps", {"{{reason}}": rate("monolith_actions_unmatched_total", "reason")}),
        Panel("Dead letters", "cps", {"{{topic}} {{kind}}": rate("monolith_dead_letters_total", "topic, kind")}),
        Panel("Records lost", "cps", {"{{topic}}": rate("monolith_records_lost_total", "topic")}),
        Panel("Records held", "short", {"{{topic}}": "max by (topic) (monolith_topic_records)"}),
        Panel("Bytes held", "bytes", {"{{topic}}": "max by (topic) (monolith_topic_bytes)"}),
        Panel(
            "Retention",
            "cps",
            {"deleted {{topic}}": rate("monolith_records_trimmed_total", "topic"), "failures": rate("monolith_trim_failures_total")},
        ),
        Panel(
            "Without effect",
            "cps",
            {
                "actions, {{reason}}": rate("monolith_actions_unused_total", "reason"),
                "repeated impressions": rate("monolith_impressions_repeated_total"),
                "counters begun anew": rate("monolith_counters_reset_total"),
                "records of a repeated step": rate("monolith_example_records_repeated_total"),
                "holes in the steps": rate("monolith_example_holes_total"),
            },
        ),
        Panel("Records archived", "cps", {"{{topic}}": rate("monolith_records_archived_total", "topic")}),
        Panel("Records not yet archived", "short", {"{{topic}}": "sum by (topic) (monolith_archive_lag_records)"}),
    ],
    "Trainer": [
        Panel("Examples trained", "cps", {"examples": rate("monolith_examples_trained_total")}),
        Panel(
            "Records not yet trained",
            "short",
            {
                "partition {{partition}}": "sum by (partition) (monolith_example_lag_records)",
                "backfill": "sum (monolith_backfill_lag_records)",
            },
        ),
        Panel(
            "Batches",
            "cps",
            {"trained": rate("monolith_batches_trained_total"), "skipped {{reason}}": rate("monolith_batches_skipped_total", "reason")},
        ),
        Panel("Duration of a step", "s", quantiles("monolith_step_duration_seconds")),
        Panel("RMSE before learning", "short", {"{{task}}": "monolith_progressive_rmse"}),
        Panel("R2 before learning", "short", {"{{task}}": "monolith_progressive_r2_ratio"}),
        Panel("Log loss of classes before learning", "short", {"{{task}}": "monolith_progressive_logloss"}),
        Panel("Right classes before learning", "percentunit", {"{{task}}": "monolith_progressive_accuracy_ratio"}),
        Panel("AUC before learning", "short", {"{{task}}": "monolith_progressive_auc"}),
        Panel("Normalised entropy before learning", "short", {"{{task}}": "monolith_progressive_ne"}),
        Panel("Calibration before learning", "short", {"{{task}}": "monolith_progressive_calibration_ratio"}),
        Panel("Mean label", "short", {"{{task}}": "monolith_label_rate"}),
        Panel("Served scores in the window", "short", {"{{task}} {{arm}} {{generation}}": "monolith_served_predictions"}),
        Panel("Age of the last checkpoint", "s", {"age": "time() - (monolith_checkpoint_saved_timestamp_seconds > 0)"}),
        Panel(
            "Duration of the last checkpoint",
            "s",
            {"duration": "monolith_checkpoint_duration_seconds > 0", "pause of training": "monolith_checkpoint_pause_seconds > 0"},
        ),
        Panel("Checkpoints that failed", "cps", {"failures": rate("monolith_checkpoint_failures_total")}),
    ],
    "Towers": [
        Panel("Density of sparse layers", "percentunit", {"density": "monolith_tower_density > 0"}),
        Panel("Live atoms", "short", {"layer {{layer}}": "monolith_tower_live_atoms"}),
        Panel("Topology updates", "short", {"updates": "increase(monolith_tower_topology_updates_total[$__rate_interval])"}),
        Panel(
            "Health of swaps",
            "percentunit",
            {"regret rate": "monolith_tower_regret_rate", "newborn survival": "monolith_tower_newborn_survival"},
        ),
        Panel("Load of experts", "percentunit", {"{{task}} expert {{expert}}": "monolith_expert_load"}),
        Panel(
            "Gates of experts",
            "short",
            {"{{task}} entropy": "monolith_gate_entropy", "{{task}} experts": "monolith_gate_experts"},
        ),
    ],
    "Tables": [
        Panel(
            "Rows",
            "short",
            {
                "{{table}}": "monolith_table_rows",
                "candidates, {{table}}": "monolith_table_candidates",
                "replica {{instance}} {{arm}}": "monolith_replica_rows > 0",
            },
        ),
        Panel(
            "Memory of rows, of the trainer",
            "bytes",
            {
                "{{table}}": "monolith_table_bytes",
                "replica {{instance}} {{arm}}": "monolith_replica_bytes > 0",
                "trainer": "monolith_memory_used_bytes > 0",
                "limit of the trainer": "monolith_memory_limit_bytes > 0",
            },
        ),
        Panel(
            "Admitted, filtered, evicted",
            "cps",
            {
                "admitted to {{table}}": rate("monolith_table_rows_admitted_total", "table"),
                "filtered by {{table}}": rate("monolith_table_lookups_filtered_total", "table"),
                "evicted from {{table}}": rate("monolith_table_rows_evicted_total", "table"),
                "forgotten in {{table}}": rate("monolith_rows_forgotten_total", "table"),
                "set to zero in {{table}}": rate("monolith_table_rows_freed_total", "table"),
            },
        ),
    ],
    "Parameter sync": [
        Panel("Rows", "cps", {"published": rate("monolith_rows_published_total"), "applied": rate("monolith_rows_applied_total")}),
        Panel("Deltas", "cps", {"published": rate("monolith_deltas_published_total"), "applied": rate("monolith_deltas_applied_total")}),
        Panel(
            "Bytes published",
            "Bps",
            {"all": rate("monolith_published_bytes_total"), "dense, {{form}}": rate("monolith_dense_published_bytes_total", "form")},
        ),
        Panel("Publishes refused by the log", "cps", {"refused": rate("monolith_publish_failures_total")}),
    ],
    "Versions": [
        Panel(
            "Shadow", "cps", {"scored": rate("monolith_shadow_scored_total"), "{{reason}}": rate("monolith_shadow_dropped_total", "reason")}
        ),
        Panel("Answered by the other arm", "cps", {"not loaded": rate("monolith_split_fallbacks_total")}),
        Panel("Judged by the guard", "cps", {"{{verdict}}": rate("monolith_guard_verdicts_total", "verdict")}),
        Panel("NE of the newest version / served", "short", {"{{task}}": "monolith_guard_ne_ratio"}),
        Panel("Calibration of the newest version", "short", {"{{task}}": "monolith_guard_calibration_ratio"}),
        Panel("Delay of verdicts", "s", quantiles("monolith_guard_delay_seconds")),
        Panel(
            "Updates held",
            "short",
            {
                "guard": "max (monolith_guard_held)",
                "{{instance}} {{arm}} waits": "monolith_replica_updates_held > 0",
                "{{instance}} {{arm}} unguarded": "monolith_replica_unguarded > 0",
            },
        ),
    ],
}


def sample_names() -> dict[str, str]:
    """Return the metric of each sample name that Prometheus sees."""
    names = {}
    for metric in REGISTRY.collect():
        if metric.name.startswith("monolith_"):
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(metric.type, [""])
            names.update({f"{metric.name}{suffix}": metric.name for suffix in suffixes})
    return names


def metrics_in(query: str) -> set[str]:
    """Return the names of our metrics in a text."""
    return set(re.findall(r"\bmonolith_\w+", query))


def build() -> dict[str, Any]:
    """Return the board as Grafana's JSON document."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, graphs in ROWS.items():
        panels.append({"type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": _place(top, 0, _COLUMNS, 1)})
        for number, graph in enumerate(graphs):
            line, column = divmod(number, _COLUMNS // _WIDTH)
            panels.append(_graph(graph, _place(top + 1 + line * _HEIGHT, column * _WIDTH, _WIDTH, _HEIGHT)))
        top += 1 + -(-len(graphs) // (_COLUMNS // _WIDTH)) * _HEIGHT
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "title": "monolith-py",
        "uid": "monolith-py",
        "schemaVersion": 39,
        "version": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "tags": ["monolith-py"],
        "templating": {"list": [_datasource_variable(), _namespace_variable()]},
        "panels": panels,
    }


def _place(top: int, left: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _graph(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {"fillOpacity": 8, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _DATASOURCE,
                "expr": re.sub(r"\bmonolith_\w+", lambda name: name[0] + _NAMESPACE, query),
                "legendFormat": legend,
            }
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _namespace_variable() -> dict[str, Any]:
    """Return the variable that selects a job by its Kubernetes namespace; ".*" selects all, with or without a namespace."""
    return {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": "label_values(monolith_process, namespace)", "refId": "namespace"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def main() -> None:
    """Write the board."""
    BOARD.write_text(json.dumps(build(), indent=2) + "\n")
    print(f"{BOARD.name}: {sum(len(graphs) for graphs in ROWS.values())} graphs of {len(set(sample_names().values()))} metrics")


if __name__ == "__main__":
    main()

"""Logging set-up of the processes, and every metric's name."""

from __future__ import annotations

import logging

from prometheus_client import Counter, Gauge, Histogram, start_http_server

EXAMPLES_JOINED = Counter("monolith_examples_joined", "Examples that the joiner wrote", ["kind"])
IMPRESSIONS_READ = Counter("monolith_impressions_read", "Impressions that the joiner read")
ACTIONS_READ = Counter("monolith_actions_read", "Actions that the joiner read")
ACTIONS_UNMATCHED = Counter("monolith_actions_unmatched", "Actions without a waiting impression", ["reason"])
DEAD_LETTERS = Counter("monolith_dead_letters", "Bad messages put aside", ["topic"])
IMPRESSIONS_WAITING = Gauge("monolith_impressions_waiting", "Candidates that wait for their window to close")
JOINER_WATERMARK_S = Gauge("monolith_joiner_watermark_s", "Event time that the joiner has reached, seconds since the epoch")

EXAMPLES_TRAINED = Counter("monolith_examples_trained", "Examples learnt")
BATCHES_TRAINED = Counter("monolith_batches_trained", "Batches learnt")
BATCHES_SKIPPED = Counter("monolith_batches_skipped", "Batches not learnt", ["reason"])
STEP_DURATION_S = Histogram("monolith_step_duration_s", "Duration of one training step", buckets=(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1, 5))
PROGRESSIVE_AUC = Gauge("monolith_progressive_auc", "AUC of predictions made before learning, over the last window", ["task"])
PROGRESSIVE_NE = Gauge("monolith_progressive_ne", "Normalised entropy of predictions made before learning, over the last window", ["task"])
CALIBRATION_RATIO = Gauge("monolith_calibration_ratio", "Mean prediction over mean label, over the last window", ["task"])
EXAMPLE_LAG_RECORDS = Gauge("monolith_example_lag_records", "Records of `examples` that wait for the trainer", ["partition"])
CHECKPOINT_DURATION_S = Gauge("monolith_checkpoint_duration_s", "Duration of the last checkpoint")
TABLE_ROWS = Gauge("monolith_table_rows", "Rows of a table", ["table"])
TABLE_BYTES = Gauge("monolith_table_bytes", "Memory of a table", ["table"])
TABLE_ADMITTED = Gauge("monolith_table_admitted", "Rows born since the table was made", ["table"])
TABLE_FILTERED = Gauge("monolith_table_filtered", "Look-ups of fids not yet admitted", ["table"])
TABLE_EVICTED = Gauge("monolith_table_evicted", "Rows evicted since the table was made", ["table"])

DELTAS_PUBLISHED = Counter("monolith_deltas_published", "Deltas that the log has acknowledged")
ROWS_PUBLISHED = Counter("monolith_rows_published", "Rows in published deltas")
PUBLISHED_BYTES = Counter("monolith_published_bytes", "Bytes of published deltas")
PUBLISH_FAILURES = Counter("monolith_publish_failures", "Publishes that the log refused; their rows go with the next")

DELTAS_APPLIED = Counter("monolith_deltas_applied", "Deltas that the replica applied")
ROWS_APPLIED = Counter("monolith_rows_applied", "Rows that the replica applied")
DELTA_GAPS = Counter("monolith_delta_gaps", "Gaps after which the replica started again from a checkpoint")
FRESHNESS_S = Histogram("monolith_freshness_s", "Row updated to servable", buckets=(0.05, 0.1, 0.2, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60))
STALENESS_S = Gauge("monolith_staleness_s", "Age of the newest applied delta")
RANK_REQUESTS = Counter("monolith_rank_requests", "Rank requests", ["code"])
RANK_CANDIDATES = Counter("monolith_rank_candidates", "Candidates scored")
RANK_DURATION_S = Histogram("monolith_rank_duration_s", "Duration of one Rank request", buckets=(5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1))
IMPRESSIONS_LOST = Counter("monolith_impressions_lost", "Impressions that could not be logged")


def set_up_logging(level: str) -> None:
    """Send log lines of `level` and above to standard error. Entry points alone call this."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def serve_metrics(port: int) -> None:
    """Serve all metrics on `port` for Prometheus; do nothing for port 0."""
    if port:
        start_http_server(port)

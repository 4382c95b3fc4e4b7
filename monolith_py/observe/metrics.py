"""Logging set-up of the processes, and every metric's name."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from monolith_py.errors import ConfigError


class WeightedHistogram(Collector):
    """A Prometheus histogram that counts many equal observations at once."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name, self._documentation, self._bounds = name, documentation, tuple(buckets)
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, value: float, count: int = 1) -> None:
        """Count `value` `count` times."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += count
            self._sum += value * count

    def collect(self) -> Iterator[Metric]:
        """Yield the metric as Prometheus reads it."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        buckets, so_far = [], 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
            so_far += count
            buckets.append((bound, float(so_far)))
        metric = HistogramMetricFamily(self._name, self._documentation)
        metric.add_metric([], buckets, sum_value=total)
        yield metric


# Every process serves all metrics of this file; this one tells whose they are.
PROCESS = Gauge("monolith_process", "1 in a process of this role: joiner, trainer, serving", ["role"])

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
STEP_DURATION_S = Histogram(
    "monolith_step_duration_s", "Duration of one training step", buckets=(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1, 5)
)
PROGRESSIVE_AUC = Gauge("monolith_progressive_auc", "AUC of predictions made before learning, over the last window", ["task"])
PROGRESSIVE_NE = Gauge("monolith_progressive_ne", "Normalised entropy of predictions made before learning, over the last window", ["task"])
CALIBRATION_RATIO = Gauge("monolith_calibration_ratio", "Mean prediction over mean label, over the last window", ["task"])
EXAMPLE_LAG_RECORDS = Gauge("monolith_example_lag_records", "Records of `examples` that wait for the trainer", ["partition"])
CHECKPOINT_DURATION_S = Gauge("monolith_checkpoint_duration_s", "Duration of the last checkpoint, beside training")
CHECKPOINT_PAUSE_S = Gauge("monolith_checkpoint_pause_s", "How long training stood still for the last checkpoint, publishing not counted")
CHECKPOINT_SAVED_S = Gauge("monolith_checkpoint_saved_s", "When the last checkpoint was complete, wall clock, seconds since the epoch")
TABLE_ROWS = Gauge("monolith_table_rows", "Rows of a table", ["table"])
TABLE_BYTES = Gauge("monolith_table_bytes", "Memory of a table", ["table"])
TABLE_ADMITTED = Gauge("monolith_table_admitted", "Rows born since the table was made", ["table"])
TABLE_FILTERED = Gauge("monolith_table_filtered", "Look-ups of fids not yet admitted", ["table"])
TABLE_EVICTED = Gauge("monolith_table_evicted", "Rows evicted since the table was made, by time to live or budget", ["table"])
TABLE_FREED = Gauge("monolith_table_freed", "Rows that their rule brought to zero, since the table was made", ["table"])
TABLE_CANDIDATES = Gauge("monolith_table_candidates", "Fids that are counted and have no row yet", ["table"])
TOWER_DENSITY = Gauge("monolith_tower_density", "Share of the atoms of sparse layers that live")
TOWER_LIVE_ATOMS = Gauge("monolith_tower_live_atoms", "Live atoms of a sparse layer", ["layer"])
TOWER_SWAPS = Gauge("monolith_tower_swaps", "How often the topology moved")
TOWER_REGRET_RATE = Gauge("monolith_tower_regret_rate", "Share of the atoms grown lately that had been dropped not long before")
TOWER_NEWBORN_SURVIVAL = Gauge("monolith_tower_newborn_survival", "Share of the atoms grown two swaps ago that have lived since")

DELTAS_PUBLISHED = Counter("monolith_deltas_published", "Deltas that the log has acknowledged")
ROWS_PUBLISHED = Counter("monolith_rows_published", "Rows in published deltas")
PUBLISHED_BYTES = Counter("monolith_published_bytes", "Bytes of published deltas")
TOWER_PUBLISHED_BYTES = Counter("monolith_tower_published_bytes", "Bytes of published updates of the towers: full, values, swap", ["form"])
PUBLISH_FAILURES = Counter("monolith_publish_failures", "Publishes that the log refused; their rows go with the next")

DELTAS_APPLIED = Counter("monolith_deltas_applied", "Deltas that the replica applied")
ROWS_APPLIED = Counter("monolith_rows_applied", "Rows that the replica applied")
FRESHNESS_S = WeightedHistogram("monolith_freshness_s", "Row updated to servable", (0.05, 0.1, 0.2, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60))
STALENESS_S = Gauge("monolith_staleness_s", "Age of the newest applied delta")
RANK_REQUESTS = Counter("monolith_rank_requests", "Rank requests", ["code"])
RANK_CANDIDATES = Counter("monolith_rank_candidates", "Candidates scored")
RANK_DURATION_S = Histogram(
    "monolith_rank_duration_s", "Duration of one Rank request", buckets=(5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1)
)
FEATURES_MISSING = Counter("monolith_features_missing", "Users or items without stored features", ["kind"])
FEATURES_BAD = Counter("monolith_features_bad", "Stored features that break a rule, served as none", ["kind"])
REPLICA_LOADS = Counter("monolith_replica_loads", "Checkpoints that the replica loaded")
REPLICA_FAULTS = Counter(
    "monolith_replica_faults",
    "Updates that the replica could not apply; it asks for full towers (TowerGap) or waits for a newer checkpoint",
    ["reason"],
)
IMPRESSIONS_LOGGED = Counter("monolith_impressions_logged", "Impressions that the log has acknowledged")
IMPRESSIONS_LOST = Counter("monolith_impressions_lost", "Impressions that could not be logged")


def set_up_logging(level: str) -> None:
    """Send log lines of `level` and above to standard error. Entry points alone call this."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    # kafka-python has an INFO line for each step of each connection.
    logging.getLogger("kafka").setLevel(max(logging.getLevelNamesMapping()[level], logging.WARNING))
    # It warns of each callback that took a tenth of a second, which on a busy machine any may.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)


def serve_metrics(port: int, role: str) -> None:
    """Serve all metrics on `port` for Prometheus, as those of a process of `role`; do nothing for port 0.

    Raises:
        ConfigError: the port is taken, or not this process's to open.
    """
    PROCESS.labels(role=role).set(1)
    if port:
        try:
            start_http_server(port)
        except OSError as error:
            raise ConfigError(f"observe.{role}_port must be free, got {port}: {error}") from None

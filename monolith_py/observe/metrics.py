"""Metrics of all processes, and their HTTP server.

Names follow the conventions of Prometheus: base units, `_total` for counters (added by the client), `_timestamp_seconds` for Unix times.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import REGISTRY, Gauge, Histogram, start_http_server
from prometheus_client import Counter as Counter
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from monolith_py.errors import ConfigError


class WeightedHistogram(Collector):
    """Prometheus histogram with a count for each observation."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name, self._documentation, self._bounds = name, documentation, tuple(buckets)
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, value: float, count: int = 1) -> None:
        """Add `count` observations of `value`."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += count
            self._sum += value * count

    @property
    def bounds(self) -> tuple[float, ...]:
        """Return the upper bounds of the buckets but the last."""
        return self._bounds

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add observations made elsewhere: the number in each bucket, the last one included, and their sum."""
        with self._lock:
            self._counts = [before + count for before, count in zip(self._counts, counts, strict=True)]
            self._sum += total

    def collect(self) -> Iterator[Metric]:
        """Yield the metric for the registry."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        buckets, so_far = [], 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
            so_far += count
            buckets.append((bound, float(so_far)))
        metric = HistogramMetricFamily(self._name, self._documentation)
        metric.add_metric([], buckets, sum_value=total)
        yield metric


class TotalCounters:
    """Counters that follow totals kept elsewhere, for instance by a table restored from a checkpoint.

    >>> evicted, counters = Counter("doc_rows_evicted", "For this example"), TotalCounters()
    >>> counters.start(evicted, 40)  # counted by an earlier process
    >>> counters.advance(evicted, 42)
    >>> REGISTRY.get_sample_value("doc_rows_evicted_total")
    2.0
    """

    def __init__(self) -> None:
        self._totals: dict[Counter, float] = {}

    def start(self, counter: Counter, total: float) -> None:
        """Set the total from which `counter` starts."""
        self._totals[counter] = total

    def advance(self, counter: Counter, total: float) -> None:
        """Increase `counter` by the rise of `total` since the last call; a fall adds nothing."""
        counter.inc(max(total - self._totals.get(counter, 0.0), 0.0))
        self._totals[counter] = total


# Each process serves all metrics of this file; this one tells its role.
PROCESS = Gauge("monolith_process", "1 for the role of the process: joiner, trainer, archiver, serving, shadow or guard", ["role"])

EXAMPLES_JOINED = Counter("monolith_examples_joined", "Examples written by the joiner", ["kind"])
IMPRESSIONS_READ = Counter("monolith_impressions_read", "Impressions read by the joiner")
ACTIONS_READ = Counter("monolith_actions_read", "Actions read by the joiner")
ACTIONS_UNMATCHED = Counter("monolith_actions_unmatched", "Actions without a waiting impression", ["reason"])
ACTIONS_UNUSED = Counter("monolith_actions_unused", "Actions of a kind that no task uses, or of a value of 0 or less", ["reason"])
IMPRESSIONS_REPEATED = Counter("monolith_impressions_repeated", "Impressions whose request id was seen before")
COUNTERS_RESET = Counter("monolith_counters_reset", "Live counters that began anew, as their stored bytes were damaged")
RECORDS_LOST = Counter("monolith_records_lost", "Records deleted or damaged before they were read", ["topic"])
TOPIC_RECORDS = Gauge("monolith_topic_records", "Records that a topic holds, measured by the trainer", ["topic"])
TOPIC_BYTES = Gauge("monolith_topic_bytes", "Bytes of a topic on disk, without replicas, measured by the trainer", ["topic"])
RECORDS_TRIMMED = Counter("monolith_records_trimmed", "Records deleted by retention after their use", ["topic"])
TRIM_FAILURES = Counter("monolith_trim_failures", "Rounds of retention that failed")
DEAD_LETTERS = Counter(
    "monolith_dead_letters",
    "Messages that could not be used, appended to the dead-letter topic; kind: broken, late, unmatched or wrong_partition",
    ["topic", "kind"],
)
JOINER_CANDIDATES_WAITING = Gauge("monolith_joiner_candidates_waiting", "Candidates of impressions with an open window")
INPUT_LAG_RECORDS = Gauge(
    "monolith_input_lag_records", "Records of impressions and actions not yet processed by the joiner", ["topic", "partition"]
)
JOINER_STEP_DURATION_SECONDS = Histogram(
    "monolith_joiner_step_duration_seconds",
    "Duration of a step of the joiner that read records, its commit included",
    buckets=(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
JOINER_REQUESTS = Gauge("monolith_joiner_requests", "Requests remembered by the joiner, open or awaiting late actions")
JOINER_STATE_BYTES = Gauge("monolith_joiner_state_bytes", "Bytes of the joiner's requests in memory, about")
ACTIONS_FORWARDED = Counter(
    "monolith_actions_forwarded", "Copies of actions that the joiner appended to another partition, where their impression may be"
)
JOINER_PARTITIONS_OWNED = Gauge("monolith_joiner_partitions_owned", "Partitions that this joiner owns")
JOINER_PARTITIONS = Gauge("monolith_joiner_partitions", "Partitions of the job's topics, as this joiner sees them")
JOINER_MEMBERS = Gauge("monolith_joiner_members", "Joiners of the job that live, as this joiner sees them")
JOINER_REBALANCES = Counter("monolith_joiner_rebalances", "Looks at the group after which this joiner took or gave up partitions")
JOINER_WATERMARK_TIMESTAMP_SECONDS = Gauge("monolith_joiner_watermark_timestamp_seconds", "Event-time watermark of the joiner, Unix time")

RECORDS_ARCHIVED = Counter("monolith_records_archived", "Records in committed files of the archive", ["topic"])
ARCHIVE_LAG_RECORDS = Gauge("monolith_archive_lag_records", "Records of a topic not yet read by the archiver", ["topic", "partition"])

EXAMPLE_RECORDS_REPEATED = Counter(
    "monolith_example_records_repeated", "Records of topic `examples` passed over: an earlier one has their step"
)
EXAMPLE_HOLES = Counter("monolith_example_holes", "Holes in the steps of topic `examples`, accepted by `train --accept-hole`")
EXAMPLES_TRAINED = Counter("monolith_examples_trained", "Examples learnt")
BATCHES_TRAINED = Counter("monolith_batches_trained", "Batches learnt")
BATCHES_SKIPPED = Counter("monolith_batches_skipped", "Batches not learnt", ["reason"])
CHECKPOINT_FAILURES = Counter("monolith_checkpoint_failures", "Checkpoints that could not be written")
STEP_DURATION_SECONDS = Histogram(
    "monolith_step_duration_seconds", "Duration of a training step", buckets=(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1, 5)
)
# Figures of the last window by the name of their field in `Quality`: of predictions just before learning, and of served scores.
PROGRESSIVE = {
    Gauge("monolith_progressive_auc", "AUC of predictions before learning in the last window", ["task"]): "auc",
    Gauge("monolith_progressive_ne", "Normalised entropy of predictions before learning in the last window", ["task"]): "ne",
    Gauge(
        "monolith_progressive_calibration_ratio", "Mean prediction before learning / mean label in the last window", ["task"]
    ): "calibration",
    Gauge(
        "monolith_progressive_rmse", "Root of the mean squared error of a regression before learning in the last window", ["task"]
    ): "rmse",
    Gauge(
        "monolith_progressive_r2_ratio", "1 - squared error / variance of a regression before learning in the last window", ["task"]
    ): "r2",
    Gauge(
        "monolith_progressive_logloss", "Mean cross-entropy of a multiclass task before learning in the last window", ["task"]
    ): "logloss",
    Gauge("monolith_progressive_accuracy_ratio", "Share of right classes before learning in the last window", ["task"]): "accuracy",
    Gauge("monolith_label_rate", "Mean label of the examples in the last window", ["task"]): "label_rate",
}
SERVED = {
    Gauge("monolith_served_auc", "AUC of served scores in the last window", ["task", "arm", "generation"]): "auc",
    Gauge("monolith_served_ne", "Normalised entropy of served scores in the last window", ["task", "arm", "generation"]): "ne",
    Gauge(
        "monolith_served_calibration_ratio", "Mean served score / mean label in the last window", ["task", "arm", "generation"]
    ): "calibration",
    Gauge("monolith_served_predictions", "Served scores in the last window", ["task", "arm", "generation"]): "num_predictions",
}
EXAMPLE_LAG_RECORDS = Gauge("monolith_example_lag_records", "Records of topic `examples` not yet read by the trainer", ["partition"])
BACKFILL_LAG_RECORDS = Gauge("monolith_backfill_lag_records", "Records of the backfill not yet read by the trainer; 0 once it is live")
CHECKPOINT_DURATION_SECONDS = Gauge("monolith_checkpoint_duration_seconds", "Duration of the last checkpoint, concurrent with training")
CHECKPOINT_PAUSE_SECONDS = Gauge(
    "monolith_checkpoint_pause_seconds", "Pause of training for the last checkpoint, without its publication of updates"
)
CHECKPOINT_SAVED_TIMESTAMP_SECONDS = Gauge(
    "monolith_checkpoint_saved_timestamp_seconds", "Wall-clock time of the last complete checkpoint, Unix time"
)
TABLE_ROWS = Gauge("monolith_table_rows", "Rows of a table", ["table"])
TABLE_BYTES = Gauge("monolith_table_bytes", "Memory of a table: id map, rows, optimizer state", ["table"])
TABLE_CANDIDATES = Gauge("monolith_table_candidates", "Counted fids without a row", ["table"])
TABLE_ROWS_ADMITTED = Counter("monolith_table_rows_admitted", "Rows created", ["table"])
TABLE_LOOKUPS_FILTERED = Counter("monolith_table_lookups_filtered", "Look-ups of fids that are not yet admitted", ["table"])
TABLE_ROWS_EVICTED = Counter("monolith_table_rows_evicted", "Rows evicted by time to live or budget, or removed", ["table"])
MEMORY_USED_BYTES = Gauge("monolith_memory_used_bytes", "Memory that counts against the limit of the trainer")
MEMORY_LIMIT_BYTES = Gauge("monolith_memory_limit_bytes", "Memory at which the trainer would be killed, 0 without a limit")
ROWS_FORGOTTEN = Counter("monolith_rows_forgotten", "Rows removed by requests to forget", ["table"])
TABLE_ROWS_FREED = Counter("monolith_table_rows_freed", "Rows set to zero by their optimizer: replicas drop them", ["table"])
TOWER_DENSITY = Gauge("monolith_tower_density", "Share of live atoms in the sparse layers")
TOWER_LIVE_ATOMS = Gauge("monolith_tower_live_atoms", "Live atoms of a sparse layer", ["layer"])
TOWER_TOPOLOGY_UPDATES = Counter("monolith_tower_topology_updates", "Updates of the topology")
TOWER_REGRET_RATE = Gauge("monolith_tower_regret_rate", "Share of the atoms grown in the last swaps soon after their drop")
TOWER_NEWBORN_SURVIVAL = Gauge("monolith_tower_newborn_survival", "Share of the atoms grown two swaps ago and still live")
EXPERT_LOAD = Gauge("monolith_expert_load", "Mean weight of an expert in a task's gate since the last report", ["task", "expert"])
GATE_ENTROPY = Gauge("monolith_gate_entropy", "Mean entropy of the weights of a task's gate since the last report, in nats", ["task"])
GATE_EXPERTS = Gauge("monolith_gate_experts", "Mean number of experts with a weight above 0 for a task since the last report", ["task"])

DELTAS_PUBLISHED = Counter("monolith_deltas_published", "Deltas acknowledged by the log")
ROWS_PUBLISHED = Counter("monolith_rows_published", "Rows in published deltas")
PUBLISHED_BYTES = Counter("monolith_published_bytes", "Bytes of published deltas")
DENSE_PUBLISHED_BYTES = Counter(
    "monolith_dense_published_bytes", "Bytes of published dense updates by form: full, values or swap", ["form"]
)
PUBLISH_FAILURES = Counter("monolith_publish_failures", "Failed publications; the next one includes their rows")

DELTAS_APPLIED = Counter("monolith_deltas_applied", "Deltas applied by the replica")
ROWS_APPLIED = Counter("monolith_rows_applied", "Rows applied by the replica")
REPLICA_ROWS = Gauge("monolith_replica_rows", "Rows of the replica, over all tables", ["arm"])
REPLICA_BYTES = Gauge(
    "monolith_replica_bytes", "Memory of the replica's rows and id maps; with serving.engine = fbgemm of the rows alone", ["arm"]
)
_FRESHNESS_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)
FRESHNESS_SECONDS = WeightedHistogram("monolith_freshness_seconds", "Time from a row's update to its use in scores", _FRESHNESS_BUCKETS)
EVENT_FRESHNESS_SECONDS = WeightedHistogram(
    "monolith_event_freshness_seconds", "Time from the newest joined event to the use of its rows in scores", _FRESHNESS_BUCKETS
)
STALENESS_SECONDS = Gauge("monolith_staleness_seconds", "Age of the newest applied delta", ["arm"])
EVENT_STALENESS_SECONDS = Gauge(
    "monolith_event_staleness_seconds", "Time from the event time that the served model has learnt to now", ["arm"]
)
BEHIND_SECONDS = Gauge("monolith_behind_seconds", "Time since the replica last had all updates of the log", ["arm"])
RANK_REQUESTS = Counter("monolith_rank_requests", "Rank requests", ["code"])
RANK_CANDIDATES = Counter("monolith_rank_candidates", "Candidates scored")
RANK_DURATION_SECONDS = WeightedHistogram(
    "monolith_rank_duration_seconds", "Duration of a Rank request", buckets=(5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1)
)
FEATURES_MISSING = Counter("monolith_features_missing", "Users or items without stored features", ["entity"])
FEATURES_BAD = Counter("monolith_features_bad", "Invalid stored features, served as missing", ["entity"])
FEATURES_UNREAD = Counter("monolith_features_unread", "Reads of stored features that failed or did not end in time", ["entity"])
RANK_TIMES_REPLACED = Counter(
    "monolith_rank_times_replaced", "Requests with an event time ahead of the clock or too old, served with its time"
)
REPLICA_LOADS = Counter("monolith_replica_loads", "Checkpoints loaded by the replica")
REPLICA_FAULTS = Counter(
    "monolith_replica_faults",
    "Updates or checkpoints that could not be used; the replica requests a full dense state (DenseGap) or waits for a newer checkpoint",
    ["reason"],
)
REPLICA_DIGESTS_EQUAL = Counter(
    "monolith_replica_digests_equal",
    "Digests of rows and dense parameters that replica and trainer had in common",
)
IMPRESSIONS_LOGGED = Counter("monolith_impressions_logged", "Impressions acknowledged by the log")
IMPRESSIONS_LOST = Counter("monolith_impressions_lost", "Impressions that could not be logged", ["reason"])
IMPRESSIONS_WITHHELD = Counter(
    "monolith_impressions_withheld",
    "Requests whose impression is not logged: not answered, debugging, or scored without stored features",
    ["reason"],
)

SHADOW_SCORED = Counter("monolith_shadow_scored", "Requests scored by the shadow model")
SHADOW_DROPPED = Counter(
    "monolith_shadow_dropped", "Mirrored requests without shadow scores; reason: late, not_ready, broken or log", ["reason"]
)
SPLIT_FALLBACKS = Counter("monolith_split_fallbacks", "Requests of the second arm answered by the first, as its model is not loaded")
GUARD_HELD = Gauge("monolith_guard_held", "1 while the guard holds updates back: replicas serve the last good version")
GUARD_VERDICTS = Counter("monolith_guard_verdicts", "Versions judged by the guard; verdict: good, unjudged or held", ["verdict"])
GUARD_NE_RATIO = Gauge("monolith_guard_ne_ratio", "Normalised entropy of the newest version / of the scores that users got", ["task"])
GUARD_CALIBRATION_RATIO = Gauge(
    "monolith_guard_calibration_ratio", "Mean prediction of the newest version / mean label, on recent examples", ["task"]
)
GUARD_DELAY_SECONDS = Histogram(
    "monolith_guard_delay_seconds",
    "Time from the publication of a version to its verdict",
    buckets=(0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
REPLICA_UPDATES_HELD = Gauge("monolith_replica_updates_held", "1 while the guard holds updates back from the replica", ["arm"])
REPLICA_UNGUARDED = Gauge(
    "monolith_replica_unguarded", "1 while the replica follows updates without a verdict, as the guard is silent", ["arm"]
)


def clear_quality() -> None:
    """Remove the gauges of served models, which come and go."""
    for gauge in SERVED:
        gauge.clear()


def serve_metrics(port: int, role: str) -> None:
    """Set the role of the process and serve all metrics on `port` for Prometheus; port 0 serves none.

    Raises:
        ConfigError: the port cannot be opened.
    """
    PROCESS.labels(role=role).set(1)
    if port:
        try:
            start_http_server(port)
        except OSError as error:
            raise ConfigError(f"observe.{role}_port must be free, got {port}: {error}") from None

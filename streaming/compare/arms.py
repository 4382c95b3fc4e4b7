"""Scores at request time and final labels of the candidates of a log, for each arm that scored them.

Letters: N candidates, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from monolith_py.config import JobConfig
from monolith_py.data.class_labels import strongest
from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError, OffsetTrimmed, RecordsDamaged, TopicMissing, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_examples, decode_impression
from monolith_py.io.codec.impression_view import parse_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_py.sync.verdicts import newest_record
from monolith_streaming.backtest.fixed_log import FixedLog

_READ_RECORDS = 256


@dataclass(frozen=True)
class ArmScores:
    """Scores of one arm for the candidates of a comparison."""

    name: str
    is_shadow: bool  # it scored mirrored requests and answered nobody
    scores: FloatArray  # (N, T) probabilities at request time, NaN for a candidate without a score of this arm

    @property
    def title(self) -> str:
        """Return the name as a reader sees it."""
        return f"{self.name} (shadow)" if self.is_shadow else self.name


@dataclass(frozen=True)
class Comparison:
    """N candidates with final labels, each once. A negative that was sampled at rate r has weight 1 / r."""

    tasks: tuple[str, ...]
    scales: tuple[str | None, ...]  # of the labels of regressions; None: the score is a probability
    start_ms: int  # event time of the first and the last request
    last_ms: int
    request_codes: Int64Array  # (N,) from 0
    user_codes: Int64Array  # (N,) from 0; a request whose impression is gone counts as a user of its own
    labels: FloatArray  # (N, T)
    weights: FloatArray  # (N,)
    arms: tuple[ArmScores, ...]  # the served one of the job first


def read_comparison(job: JobConfig, shadows: Sequence[JobConfig], log: Log, start_ms: int = 0, end_ms: int | None = None) -> Comparison:
    """Read the candidates of [start_ms, end_ms), event time of their requests, that a served arm or a shadow has scored.

    `shadows` are the jobs of models whose processes `monolith shadow` have scored requests of the same log. `end_ms` None: up to the last
    request whose window has closed. A later end would count positives, which are known early, without their negatives.

    Raises:
        ConfigError: a shadow job has another log, or nothing in the range has scores and labels.
        LogError: a topic is missing, or the log cannot be reached.
    """
    topics, schema = Topics.of(job.log), Schema.of(job)
    for one in shadows:
        if Topics.of(one.log).examples != topics.examples or one.log.url != job.log.url:
            raise ConfigError(f"the job {one.name!r} must have the log of {job.name!r}, {job.log.url!r}, got {one.log.url!r}")
    view = FixedLog(log, [topics.impressions, topics.examples])
    end_ms = _closed_ms(job, view, topics.impressions) if end_ms is None else end_ms
    rows = _Rows(schema, start_ms, end_ms)
    for record in _records(view, topics.examples, start_ms):
        try:
            rows.add_examples(decode_examples(record.value))
        except WireError:
            continue  # the trainer has put it aside
    for one in shadows:
        rows.add_shadow(one, log, start_ms)
    rows.add_users(_records(view, topics.impressions, start_ms), WirePatterns(schema.dense_dims))
    return rows.comparison(job.serving.arm)


def _closed_ms(job: JobConfig, log: FixedLog, topic: str) -> int:
    """Return the event time up to which the windows of requests have closed."""
    newest = 0
    for partition in range(log.num_partitions(topic)):
        record = newest_record(log, topic, partition)
        newest = max(newest, 0 if record is None else record.time_ms)
    return newest - round((job.joiner.window_s + job.joiner.max_out_of_orderness_s) * 1000)


def _records(log: FixedLog, topic: str, start_ms: int) -> Iterator[Record]:
    """Yield the records of all partitions from event time `start_ms` on; pass over damaged ones."""
    for partition in range(log.num_partitions(topic)):
        offset = log.offset_at(topic, partition, start_ms)
        while True:
            try:
                records = log.read(topic, partition, offset, _READ_RECORDS)
            except RecordsDamaged as error:
                offset = error.next_offset
                continue
            except OffsetTrimmed as error:
                offset = error.start
                continue
            if not records:
                break
            yield from records
            offset = records[-1].offset + 1


class _Rows:
    """Candidates while they are read, each at a place."""

    def __init__(self, schema: Schema, start_ms: int, end_ms: int) -> None:
        self._schema, self._tasks, self._start_ms, self._end_ms = schema, schema.tasks, start_ms, end_ms
        self._places: dict[tuple[str, int], int] = {}
        self._requests: dict[str, int] = {}
        self._users: dict[str, int] = {}  # request -> user
        self._codes: list[int] = []  # request of each candidate
        self._times_ms: list[int] = []
        self._labels: list[list[float]] = []
        self._weights: list[float] = []
        self._scores: dict[tuple[str, bool], dict[int, Sequence[float]]] = {}  # (arm, is a shadow) -> place -> scores by task

    def add_examples(self, batch: ExampleBatch) -> None:
        """Add examples of the range; a retraction replaces the negative that it takes back."""
        served = batch.served
        scores = None if served is None else np.stack([_column(served.scores.get(task), len(batch)) for task in self._tasks], axis=1)
        labels = np.stack([_column(batch.labels.get(task), len(batch), 0.0) for task in self._tasks], axis=1)
        for row in np.flatnonzero((batch.times_ms >= self._start_ms) & (batch.times_ms < self._end_ms)).tolist():
            key = batch.request_ids[row], int(batch.item_ids[row])
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = len(self._codes)
                self._codes.append(self._requests.setdefault(key[0], len(self._requests)))
                self._times_ms.append(int(batch.times_ms[row]))
                self._labels.append(labels[row].tolist())
                self._weights.append(1.0 / float(batch.sample_rates[row]))
            else:
                self._labels[place] = [max(pair) for pair in zip(self._labels[place], labels[row].tolist(), strict=True)]
            if batch.kinds[row] == ExampleKind.RETRACTION:
                self._weights[place] = 1.0
            if served is not None and scores is not None and (arm := served.models[served.model_codes[row]].arm):
                self._scores.setdefault((arm, False), {})[place] = scores[row].tolist()

    def add_shadow(self, job: JobConfig, log: Log, start_ms: int) -> None:
        """Add the scores of a shadow process to the candidates that have labels."""
        topic = Topics.of(job.log).shadow_scores
        try:
            view = FixedLog(log, [topic])
        except TopicMissing as error:
            raise TopicMissing(f"{error}: `monolith topics` makes it, `monolith shadow` fills it") from None
        of_arm = self._scores.setdefault((job.serving.arm, True), {})
        for record in _records(view, topic, start_ms):
            try:
                scored = decode_impression(record.value)
            except WireError:
                continue
            if scored.request_id not in self._requests:
                continue
            columns = [scored.task_names.index(task) if task in scored.task_names else None for task in self._tasks]
            for item_id, values in zip(scored.item_ids.tolist(), scored.scores.tolist(), strict=True):
                place = self._places.get((scored.request_id, item_id))
                if place is not None:
                    of_arm[place] = [math.nan if column is None else values[column] for column in columns]

    def add_users(self, impressions: Iterator[Record], patterns: WirePatterns) -> None:
        """Add the user of each request."""
        for record in impressions:
            try:
                view = parse_impression(record.value, patterns)
            except WireError:
                continue
            if view.request_id in self._requests:
                self._users[view.request_id] = view.user_id

    def comparison(self, first_arm: str) -> Comparison:
        """Return the candidates that at least one arm has scored; arm `first_arm` is the first.

        Raises:
            ConfigError: there are none.
        """
        num = len(self._codes)
        scores = {}
        for key, of_arm in self._scores.items():
            scores[key] = np.full((num, len(self._tasks)), np.nan, np.float32)
            if of_arm:
                scores[key][list(of_arm)] = list(of_arm.values())
        kept = np.zeros(num, bool)
        for values in scores.values():
            kept |= np.isfinite(values).any(axis=1)
        if not kept.any():
            raise ConfigError(
                f"start and end must have candidates with scores and labels in between, got {num} with labels, none with scores"
            )
        names = list(self._requests)
        users = np.unique([self._user_key(names[code]) for code in self._codes], return_inverse=True)[1].astype(np.int64)
        times_ms = np.array(self._times_ms, np.int64)[kept]
        order = sorted(scores, key=lambda key: (key != (first_arm, False), key[1], key[0]))
        return Comparison(
            self._tasks,
            self._schema.scales,
            int(times_ms.min()),
            int(times_ms.max()),
            np.array(self._codes, np.int64)[kept],
            np.unique(users[kept], return_inverse=True)[1].astype(np.int64),
            strongest(np.array(self._labels, np.float32)[kept], self._schema.settings),
            np.array(self._weights, np.float32)[kept],
            tuple(ArmScores(name, is_shadow, scores[name, is_shadow][kept]) for name, is_shadow in order),
        )

    def _user_key(self, request_id: str) -> str:
        user = self._users.get(request_id)
        return f"r{request_id}" if user is None else f"u{user}"


def _column(values: FloatArray | None, num: int, absent: float = math.nan) -> FloatArray:
    return np.full(num, absent, np.float32) if values is None else values

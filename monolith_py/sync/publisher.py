"""Publisher of the touched rows and the dense parameters, as deltas in the log.

The training thread drains the tables, which pack their rows; one worker thread encodes the deltas and appends them. If the log refuses an
append, the worker appends the same bytes again before anything newer: no row is lost, and no seq is skipped or used for two contents.
Where a refused append was written after all, subscribers skip the copy by its seq. Another trainer that starts on the topic fences this
one: its next append raises `Fenced`, so the deltas of two trainers never mix, wherever their checkpoints are.

A trainer that restored a checkpoint first publishes again, as rows or as evictions, all fids that lost lives have published since: so
replicas have its rows whatever they applied before.

The first publication of a generation carries the full dense state, as does the next one after a replica asked for it. The others carry
the change since the publication before. The worker decides when it encodes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from monolith_py.clock import Clock
from monolith_py.config import SyncConfig
from monolith_py.data.columns import Int64Array
from monolith_py.errors import Fenced, LogError
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.observe.metrics import DELTAS_PUBLISHED, DENSE_PUBLISHED_BYTES, PUBLISH_FAILURES, PUBLISHED_BYTES, ROWS_PUBLISHED
from monolith_py.sync.delta import Delta
from monolith_py.sync.dense.requests import DenseRequests
from monolith_py.sync.dense.state import DenseState
from monolith_py.sync.digest import ModelDigest
from monolith_py.sync.generation import Generation, next_generation, touch_lost
from monolith_py.sync.publication import DensePart, DrainedTable, Publication, StepMarks
from monolith_py.sync.rows import RowEncoding
from monolith_py.table import EncodedDelta

_logger = logging.getLogger(__name__)

_CONSUMER = "replicas"
# Name of the trainer's writer of the updates, in any job: no two trainers publish to one topic.
_WRITER = "trainer"
# Longest time between two publications: an empty delta shows replicas that the trainer runs and has nothing new.
_HEARTBEAT_S = 5.0


class TouchedRows(Protocol):
    """Operations of `EmbeddingTable` for publishing."""

    @property
    def dim(self) -> int:
        """Return the width of a row."""
        ...

    @property
    def encoding(self) -> str | None:
        """Return the encoding of the rows of `drain_encoded`, None if a row has several."""
        ...

    def drain_encoded(self, consumer: str) -> EncodedDelta:
        """Return the packed rows touched and the fids evicted since the last acknowledged drain."""
        ...

    def touch(self, consumer: str, fids: Int64Array) -> None:
        """Note `fids` as changed: the next drain returns their rows as they are, or evictions for those without."""
        ...

    def ack(self, consumer: str, ticket: int) -> None:
        """Forget the changes of the drain `ticket`."""
        ...


@dataclass(frozen=True)
class PublishedModel:
    """Tables and dense parameters of a trainer, for its replicas."""

    tables: Mapping[str, TouchedRows]
    dense: Callable[[], Mapping[str, npt.ArrayLike]]  # returns copies of the dense tensors
    identity: int = 0  # `Layout.identity`: replicas of another one refuse the dense parameters


class Publisher:
    """Publishes the tables and dense parameters of one trainer. All methods are for the training thread."""

    def __init__(
        self, log: Log, topics: Topics, model: PublishedModel, config: SyncConfig, clock: Clock, *, generation: Generation
    ) -> None:
        """Publish from seq 0 of `generation` on, and fence the trainer before; a new trainer takes its number from `next_generation`.

        If lost updates after its parent cannot be read, the generation is published as a new model: `descends` is False then.

        Raises:
            ValueError: the rows of a table have no single encoding.
            Fenced: another trainer has begun this generation since.
        """
        for name, table in model.tables.items():
            if table.encoding is None:
                raise ValueError(f"table {name!r} must pack whole rows in one encoding, got slices of several, or of int8 or int4")
        self._writer, self._model = log.writer(topics.updates, 0, _WRITER), model
        self._config, self._clock = config, clock
        if (newest := next_generation(log, topics.updates, 0) - 1) >= generation.number:
            rule = f"generation must be above {newest}, the newest in {topics.updates!r}"
            raise Fenced(f"{rule}, got {generation.number}: another trainer has started at the same time")
        if generation.parent and not touch_lost(log, topics.updates, generation.parent, self._touch):
            generation = replace(generation, parent=None)
        self._generation, self._next_seq = generation, 0
        self._requests = DenseRequests(log, topics.dense_requests)
        self._marks = StepMarks()
        self._has_learnt = False  # a step since the last publication with dense parameters
        self._due_s = self._dense_due_s = self._heartbeat_due_s = clock.monotonic_s()
        self._base: DenseState | None = None  # of the last publication with dense parameters, appended or not
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._publication: Publication | None = None  # made and not acknowledged by the log
        self._append: Future[int] | None = None  # of `_publication`, in the worker
        self._digest: ModelDigest | None = None

    @property
    def next_delta(self) -> tuple[int, int]:
        """Return (generation, seq) of the next delta to publish."""
        return self._generation.number, self._next_seq

    @property
    def descends(self) -> bool:
        """Return whether replicas can follow from the generation before; otherwise they need a checkpoint."""
        return self._generation.parent is not None

    @property
    def parent_version(self) -> str:
        """Return "generation.seq" of the checkpoint from which this generation started, "" for a new model."""
        parent = self._generation.parent
        return f"{parent.generation}.{parent.seq}" if parent else ""

    @property
    def digest(self) -> ModelDigest | None:
        """Return the digest of the newest publication that the log has acknowledged, None before the first."""
        return self._digest

    def take_checkpoint_request(self) -> bool:
        """Return whether a replica has asked for a checkpoint, once; requests are read every `dense_interval_s`."""
        return self._requests.take_checkpoint()

    def note_step(self, num_rows: int, event_ms: int = 0) -> None:
        """Note that a training step has just updated `num_rows` rows. `event_ms`: see `StepMark`."""
        self._marks.add(self._clock.now_ms(), num_rows, event_ms)
        self._has_learnt = True

    def maybe_publish(self, watermark_ms: int) -> None:
        """Start a publication if one is due and none is in progress; never wait for the log. `watermark_ms` is event time.

        One is due `sparse_interval_s` after the last one that had something: after a pause the first change does not wait.
        """
        if self._append is not None:
            if not self._append.done():
                return
            self._finish_append()
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        if self._publication is None:
            dense_due = now_s >= self._dense_due_s
            self._publication = self._drain(watermark_ms, self._capture_dense() if dense_due else None)
        if self._publication is not None:
            self._due_s = now_s + self._config.sparse_interval_s
            self._start_append()

    def flush(self, watermark_ms: int) -> int:
        """Publish all pending changes and the dense parameters, wait for the log, and return the end offset of the updates.

        Raises:
            LogError: the log refused; the changes stay for the next publication.
        """
        if self._append is not None:
            self._finish_append()
        if self._publication is not None:
            self._start_append()
            self._finish_append_or_raise()
        self._has_learnt = True  # forces the dense parameters into the publication
        self._publication = self._drain(watermark_ms, self._capture_dense())
        self._start_append()
        return self._finish_append_or_raise()

    def close(self) -> None:
        """Wait for an append in progress and stop the worker. Changes that are not published stay in the tables: `flush` first."""
        if self._append is not None:
            self._finish_append()
        self._worker.shutdown()
        self._writer.close()

    def _touch(self, lost: Delta) -> None:
        """Note the fids of a delta that this trainer has not learnt as changed."""
        if lost.table in self._model.tables:
            self._model.tables[lost.table].touch(_CONSUMER, np.concatenate([lost.fids, lost.evicted]))

    def _capture_dense(self) -> DensePart:
        """Return the dense part of the next publication, and start the next dense interval."""
        base, has_learnt = self._base, self._has_learnt
        if base is None or has_learnt:
            self._base = DenseState.of(self._model.dense(), self._model.identity)
        assert self._base is not None
        self._has_learnt = False
        self._dense_due_s = self._clock.monotonic_s() + self._config.dense_interval_s
        return DensePart(base, self._base, has_learnt, RowEncoding(self._config.dense_encoding), self._requests.take)

    def _drain(self, watermark_ms: int, dense: DensePart | None) -> Publication | None:
        """Return a publication of all changes of the tables; None if there are none, `dense` is None and no heartbeat is due."""
        publication = Publication(
            generation=self._generation,
            first_seq=self._next_seq,
            watermark_ms=watermark_ms,
            published_ms=self._clock.now_ms(),
            dense_part=dense,
            drained=[
                DrainedTable(name, table.dim, RowEncoding(table.encoding), table.drain_encoded(_CONSUMER))
                for name, table in self._model.tables.items()
            ],
            steps=self._marks.take(),
            encoding=RowEncoding(self._config.encoding),
            rows_per_delta=self._config.rows_per_delta,
            is_heartbeat=(now_s := self._clock.monotonic_s()) >= self._heartbeat_due_s,
        )
        if publication.is_empty:
            self._acknowledge(publication)
            return None
        self._next_seq += publication.num_deltas
        self._heartbeat_due_s = now_s + _HEARTBEAT_S
        return publication

    def _start_append(self) -> None:
        """Append the publication, if there is one, in the worker."""
        made = self._publication
        if made is not None:
            self._append = self._worker.submit(lambda: self._writer.append(made.values(), time_ms=made.published_ms))

    def _finish_append(self) -> LogError | None:
        """Wait for the append and acknowledge its drains; return the error of a log that refused. Other errors are raised."""
        assert self._append is not None and self._publication is not None
        append, publication = self._append, self._publication
        try:
            append.result()
        except LogError as error:
            PUBLISH_FAILURES.inc()
            _logger.warning(
                "append refused, will try again: generation %d seq %d: %s", self._generation.number, publication.first_seq, error
            )
            return error
        finally:
            self._append = None
        self._publication, self._digest = None, publication.digest
        self._acknowledge(publication)
        _report(publication)
        return None

    def _finish_append_or_raise(self) -> int:
        """Wait for the append and return its end offset."""
        assert self._append is not None
        append = self._append
        error = self._finish_append()
        if error is not None:
            raise error
        return append.result()

    def _acknowledge(self, publication: Publication) -> None:
        for part in publication.drained:
            self._model.tables[part.table].ack(_CONSUMER, part.delta.ticket)


def _report(publication: Publication) -> None:
    """Count and log a publication that the log has acknowledged."""
    DELTAS_PUBLISHED.inc(publication.num_deltas)
    ROWS_PUBLISHED.inc(publication.num_rows)
    PUBLISHED_BYTES.inc(publication.num_bytes)
    form, num_dense_bytes = (publication.dense.form.value, publication.dense.num_bytes) if publication.dense else ("none", 0)
    if publication.dense:
        DENSE_PUBLISHED_BYTES.labels(form=form).inc(num_dense_bytes)
    _logger.info(
        "published generation %d seq %d..%d: %d rows, %d evicted, dense parameters: %s, %d bytes",
        publication.generation.number,
        publication.first_seq,
        publication.first_seq + publication.num_deltas - 1,
        publication.num_rows,
        publication.num_evicted,
        form,
        num_dense_bytes,
    )

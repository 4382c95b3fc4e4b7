"""Publishes what training changed: touched rows at a short interval, dense parameters at a longer one, as deltas appended to the log.

The training thread drains the tables and goes on; one worker thread packs and appends. A publish that the log refused stays as it is,
number for number and byte for byte, and goes before the next: no row is dropped, no seq is skipped, none is used twice for different
content. Where a refused append was written after all, the subscriber skips the copy by its seq.

The dense state goes whole at the first publish of a generation and where a replica asked, else as the change since the publish before.
The worker decides between the two when it packs a publish for the first time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from torch import Tensor

from monolith_py.clock import Clock
from monolith_py.config import SyncConfig
from monolith_py.errors import LogError
from monolith_py.io import Log
from monolith_py.observe.metrics import DELTAS_PUBLISHED, DENSE_PUBLISHED_BYTES, PUBLISH_FAILURES, PUBLISHED_BYTES, ROWS_PUBLISHED
from monolith_py.sync.dense.requests import DenseRequests
from monolith_py.sync.dense.state import DenseState
from monolith_py.sync.publication import DenseTurn, Drained, Publication, StepMarks
from monolith_py.sync.rows import RowEncoding
from monolith_py.table import EncodedDelta

logger = logging.getLogger(__name__)

_CONSUMER = "replicas"


class TouchedRows(Protocol):
    """The part of `EmbeddingTable` that publishing needs."""

    @property
    def dim(self) -> int:
        """Return the width of a row."""
        ...

    @property
    def encoding(self) -> str | None:
        """Return the encoding of the rows that `drain_encoded` returns, None where a row has several."""
        ...

    def drain_encoded(self, consumer: str) -> EncodedDelta:
        """Return the packed rows touched and the fids evicted since the last acknowledged drain."""
        ...

    def ack(self, consumer: str, ticket: int) -> None:
        """Forget what the drain `ticket` returned."""
        ...


class Publisher:
    """Publishes the tables and dense parameters of one trainer. All methods are for the training thread.

    A trainer that starts takes `generation` from `next_generation`; `dense` returns copies of the tensors to publish, made in the training
    thread; `requests` is looked at in the worker, at most once for each turn of the towers.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        tables: Mapping[str, TouchedRows],
        dense: Callable[[], Mapping[str, Tensor]],
        config: SyncConfig,
        clock: Clock,
        *,
        requests: DenseRequests,
        generation: int,
        next_seq: int = 0,
    ) -> None:
        """Publish to `topic` from delta (`generation`, `next_seq`) on.

        Raises:
            ValueError: a table packs its rows in another encoding than `config.encoding`.
        """
        for name, table in tables.items():
            if table.encoding != config.encoding:
                raise ValueError(f"encoding of table {name!r} must be that of sync.encoding, {config.encoding!r}, got {table.encoding!r}")
        self._log, self._topic, self._tables, self._dense = log, topic, tables, dense
        self._requests, self._config, self._clock = requests, config, clock
        self._generation, self._next_seq = generation, next_seq
        self._marks = StepMarks()
        self._stepped = False  # since dense parameters were published last
        self._due_s = self._dense_due_s = clock.monotonic_s()
        self._base: DenseState | None = None  # as of the newest publish with dense parameters, be it in the log or on its way
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._publish: Publication | None = None  # built and not acknowledged
        self._append: Future[int] | None = None  # on its way to the log

    @property
    def next_delta(self) -> tuple[int, int]:
        """Return (generation, seq) of the next delta to publish."""
        return self._generation, self._next_seq

    def note_step(self, num_rows: int) -> None:
        """Note that a training step has just updated `num_rows` rows."""
        self._marks.add(self._clock.now_ms(), num_rows)
        self._stepped = True

    def maybe_publish(self, watermark_ms: int) -> None:
        """Start a publish where one is due and none is on its way; never wait for the log. `watermark_ms` is event time."""
        if self._append is not None:
            if not self._append.done():
                return
            self._settle()
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._config.sparse_interval_s
        if self._publish is None:
            dense_due = now_s >= self._dense_due_s
            self._publish = self._collect(watermark_ms, self._turn() if dense_due else None)
        self._start()

    def flush(self, watermark_ms: int) -> int:
        """Publish all that is pending and the dense parameters, wait until the log has it, and return the end offset of the updates.

        Raises:
            LogError: the log refused; everything stays for the next publish.
        """
        if self._append is not None:
            self._settle()
        if self._publish is not None:
            self._start()
            self._settle_or_raise()
        self._stepped = True  # whoever flushes wants the log to hold all there is
        self._publish = self._collect(watermark_ms, self._turn())
        self._start()
        return self._settle_or_raise()

    def close(self) -> None:
        """Wait for a publish that is on its way and stop the worker; what is not published stays in the tables. `flush` first."""
        if self._append is not None:
            self._settle()
        self._worker.shutdown()

    def _turn(self) -> DenseTurn:
        """Return what to publish of the dense parameters now that it is their turn."""
        base, has_learnt = self._base, self._stepped
        if base is None or has_learnt:
            self._base = DenseState.of(self._dense())
        assert self._base is not None
        self._stepped = False
        self._dense_due_s = self._clock.monotonic_s() + self._config.dense_interval_s
        return DenseTurn(base, self._base, has_learnt, RowEncoding(self._config.dense_encoding), self._requests.take)

    def _collect(self, watermark_ms: int, turn: DenseTurn | None) -> Publication | None:
        """Drain all tables into a publish; None where nothing changed and it is not the dense parameters' turn."""
        drained = []
        for name, table in self._tables.items():
            drained.append(Drained(name, table.dim, table.drain_encoded(_CONSUMER)))
        publish = Publication(
            generation=self._generation,
            first_seq=self._next_seq,
            watermark_ms=watermark_ms,
            published_ms=self._clock.now_ms(),
            turn=turn,
            drained=drained,
            steps=self._marks.take(),
            encoding=RowEncoding(self._config.encoding),
            rows_per_delta=self._config.rows_per_delta,
        )
        if publish.is_empty:
            self._acknowledge(publish)
            return None
        self._next_seq += publish.num_deltas
        return publish

    def _start(self) -> None:
        """Hand the publish, where there is one, to the worker."""
        publish = self._publish
        if publish is not None:
            self._append = self._worker.submit(lambda: self._log.append(self._topic, publish.values(), time_ms=publish.published_ms))

    def _settle(self) -> LogError | None:
        """Wait for the append; acknowledge its rows, or return why the log refused. Other errors pass through."""
        assert self._append is not None and self._publish is not None
        append, publish = self._append, self._publish
        try:
            append.result()
        except LogError as error:
            PUBLISH_FAILURES.inc()
            logger.warning("publish refused, kept for the next: generation %d seq %d: %s", self._generation, publish.first_seq, error)
            return error
        finally:
            self._append = None
        self._publish = None
        self._acknowledge(publish)
        DELTAS_PUBLISHED.inc(publish.num_deltas)
        ROWS_PUBLISHED.inc(publish.num_rows)
        PUBLISHED_BYTES.inc(publish.num_bytes)
        form, num_dense_bytes = (publish.dense.form.value, publish.dense.num_bytes) if publish.dense else ("no", 0)
        if publish.dense:
            DENSE_PUBLISHED_BYTES.labels(form=form).inc(num_dense_bytes)
        logger.info(
            "published generation %d seq %d..%d: %d rows, %d evicted, %d bytes of %s dense parameters",
            self._generation,
            publish.first_seq,
            publish.first_seq + publish.num_deltas - 1,
            publish.num_rows,
            publish.num_evicted,
            num_dense_bytes,
            form,
        )
        return None

    def _settle_or_raise(self) -> int:
        assert self._append is not None
        append = self._append
        error = self._settle()
        if error is not None:
            raise error
        return append.result()

    def _acknowledge(self, publish: Publication) -> None:
        for part in publish.drained:
            self._tables[part.table].ack(_CONSUMER, part.delta.ticket)

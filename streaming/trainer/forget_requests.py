"""Requests to forget rows, as the trainer reads and carries them out.

A request removes the rows of its fids from the table of its feature, which tells replicas and all other consumers; and from then on no
example of an impression up to its event time is learnt for these fids: not one that the joiner has still to write, none of a replay, none
that is learnt again after a restart. The whole topic is read at each start and is never trimmed. The checkpoint has the offset up to
which rows were removed; requests after it are carried out again. A fid that comes back later starts anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from monolith_py.clock import Clock
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.forgetting import ForgetRequest, ForgottenFids
from monolith_py.errors import OffsetTrimmed, RecordsDamaged, TopicMissing, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_forget_request
from monolith_py.observe import metrics
from monolith_py.table import EmbeddingBags

_logger = logging.getLogger(__name__)

_READ_RECORDS = 256
# Wall-clock time between two looks at the topic.
_INTERVAL_S = 0.5


class ForgetRequests:
    """Reads the topic `topic`; removes the rows of requests from offset `offset` on from `bags`."""

    def __init__(self, log: Log, topic: str, bags: EmbeddingBags, clock: Clock, offset: int = 0) -> None:
        self._log, self._topic, self._bags, self._clock = log, topic, bags, clock
        self._removed_until, self._next = offset, 0
        self._due_s = clock.monotonic_s()
        self._forgotten = ForgottenFids()

    @property
    def offset(self) -> int:
        """Return the offset after the last request whose rows were removed, for the checkpoint."""
        return self._removed_until

    def take(self) -> int:
        """Carry out new requests, if a look is due; return their number.

        Raises:
            LogError: the log cannot be reached.
        """
        if self._clock.monotonic_s() < self._due_s:
            return 0
        self._due_s = self._clock.monotonic_s() + _INTERVAL_S
        done = 0
        try:
            self._check_offset()
            while records := self._read():
                requests = [(record.offset, request) for record in records if (request := _request(record)) is not None]
                self._forgotten.add(one for _, request in requests for one in self._of_table(request))
                new = [request for offset, request in requests if offset >= self._removed_until]
                self._remove(new)
                done += len(new)
                self._next = records[-1].offset + 1
                self._removed_until = max(self._removed_until, self._next)
        except TopicMissing:  # a log of before
            return 0
        return done

    def strip(self, examples: ExampleBatch) -> ExampleBatch:
        """Return the examples without the fids that must not be learnt from them."""
        return self._forgotten.strip(examples)

    def _check_offset(self) -> None:
        """Carry all requests out if the topic ends before the offset of the checkpoint: it was made again."""
        if self._next == 0 and self._removed_until > (end := self._log.end_offset(self._topic)):
            _logger.error("%r must reach offset %d, got %d for its end: carrying out all requests", self._topic, self._removed_until, end)
            self._removed_until = 0

    def _of_table(self, request: ForgetRequest) -> Iterator[ForgetRequest]:
        """Yield the request for each feature that reads the rows."""
        table = self._bags.table_of(request.feature)
        for feature in self._bags.features:
            if table is not None and self._bags.table_of(feature.name) is table:
                yield replace(request, feature=feature.name)

    def _read(self) -> Sequence[Record]:
        while True:
            try:
                return self._log.read(self._topic, 0, self._next, _READ_RECORDS)
            except OffsetTrimmed as error:
                _logger.error("requests to forget are gone: older examples may be learnt for their fids again: %s", error)
                self._next = error.start
            except RecordsDamaged as error:
                _logger.error("requests to forget are passed over: %s", error)
                self._next = error.next_offset

    def _remove(self, requests: Sequence[ForgetRequest]) -> None:
        for request in requests:
            table = self._bags.table_of(request.feature)
            if table is None:
                _logger.warning("feature %s is not of this job: nothing to forget", request.feature)
                continue
            removed = table.remove(list(request.fids))
            metrics.ROWS_FORGOTTEN.labels(table=table.name).inc(len(removed))
            _logger.info("feature %s: forgot %d fids, %d of them had rows", request.feature, len(request.fids), len(removed))


def _request(record: Record) -> ForgetRequest | None:
    try:
        return decode_forget_request(record.value)
    except WireError as error:
        _logger.error("%s[%d] offset %d: no request to forget: %s", record.topic, record.partition, record.offset, error)
        return None

"""Dead letters: bad messages from outside, kept with the reason and counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from monolith_py.clock import Clock
from monolith_py.data.events import DeadLetter, Reinjection
from monolith_py.errors import RecordRefused, WireError
from monolith_py.io.codec import decode_letter_record, encode_dead_letter
from monolith_py.io.log.log import Log
from monolith_py.observe.metrics import DEAD_LETTERS

_logger = logging.getLogger(__name__)

# A letter with more bytes of the message is cut: it must fit a topic with Kafka's own limit of 1 MiB.
_VALUE_BYTES = 900_000
_REASON_CHARS = 1000
# Bytes of one append.
_APPEND_BYTES = 4 << 20
_READ_RECORDS = 500


class DeadLetters:
    """Appends refused messages to one topic. Safe for threads if the log is.

    A `LogError` passes through: the caller must not read past a message that is neither processed nor kept.
    """

    def __init__(self, log: Log, topic: str, clock: Clock) -> None:
        self._log, self._topic, self._clock = log, topic, clock

    def put(self, topic: str, partition: int, offset: int, value: bytes, reason: str) -> None:
        """Append the message `value` from (topic, partition, offset) with the reason for refusing it."""
        self.put_all([DeadLetter(topic, partition, offset, value, reason)])

    def put_all(self, letters: Sequence[DeadLetter]) -> None:
        """Append letters in order. Values beyond 900,000 bytes and reasons beyond 1,000 characters are cut."""
        now_ms = self._clock.now_ms()
        kept = [replace(_cut(letter, _VALUE_BYTES), reason=letter.reason[:_REASON_CHARS], time_ms=now_ms) for letter in letters]
        values: list[bytes] = []
        num_bytes = 0
        for letter in kept:
            values.append(encode_dead_letter(letter))
            num_bytes += len(values[-1])
            if num_bytes >= _APPEND_BYTES:
                self._append(values, now_ms)
                values, num_bytes = [], 0
        self._append(values, now_ms)
        for letter in kept:
            DEAD_LETTERS.labels(topic=letter.topic, kind=letter.kind).inc()

    def _append(self, values: Sequence[bytes], now_ms: int) -> None:
        if not values:
            return
        try:
            self._log.append(self._topic, values, time_ms=now_ms)
        except RecordRefused as error:
            if len(values) == 1:
                _logger.error("a dead letter of %d bytes is lost: %s", len(values[0]), error)
                return
            for value in values:  # some may be in the topic twice
                self._append([value], now_ms)


def _cut(letter: DeadLetter, num_bytes: int) -> DeadLetter:
    if len(letter.value) <= num_bytes:
        return letter
    return replace(letter, value=letter.value[:num_bytes], value_bytes=len(letter.value))


def read_dead_letters(log: Log, topic: str, last: int) -> Iterator[tuple[int, DeadLetter]]:
    """Yield (offset, letter) of the newest `last` records of the topic of dead letters, oldest first; skip records of others.

    Raises:
        LogError: the topic is missing, or the log cannot be read.
    """
    for offset, found in read_letter_records(log, topic, log.end_offset(topic) - last):
        if isinstance(found, DeadLetter):
            yield offset, found


def read_letter_records(log: Log, topic: str, first: int) -> Iterator[tuple[int, DeadLetter | Reinjection]]:
    """Yield (offset, letter or re-injection) from offset `first` to the present end; skip records of others.

    Raises:
        LogError: the topic is missing, or the log cannot be read.
    """
    offset, end = max(log.start_offset(topic), first), log.end_offset(topic)
    while offset < end and (records := log.read(topic, 0, offset, _READ_RECORDS)):
        for record in records:
            try:
                yield record.offset, decode_letter_record(record.value)
            except WireError as error:
                _logger.warning("%r offset %d is no dead letter: %s", topic, record.offset, error)
        offset = records[-1].offset + 1

"""Dead letters: bad messages from outside, kept with the reason and counted."""

from __future__ import annotations

from monolith_py.clock import Clock
from monolith_py.io.codec import encode_dead_letter
from monolith_py.io.log.log import Log
from monolith_py.observe.metrics import DEAD_LETTERS


class DeadLetters:
    """Appends refused messages to one topic. Safe for threads if the log is."""

    def __init__(self, log: Log, topic: str, clock: Clock) -> None:
        self._log, self._topic, self._clock = log, topic, clock

    def put(self, topic: str, partition: int, offset: int, value: bytes, reason: str) -> None:
        """Append the message `value` from (topic, partition, offset) with the reason for refusing it.

        A `LogError` passes through: the caller must not read past a message that is neither processed nor kept.
        """
        now_ms = self._clock.now_ms()
        self._log.append(self._topic, [encode_dead_letter(topic, partition, offset, value, reason, now_ms)], time_ms=now_ms)
        DEAD_LETTERS.labels(topic=topic).inc()

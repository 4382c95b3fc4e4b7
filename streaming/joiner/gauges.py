"""Gauges of a running joiner: records behind, duration of steps, size of the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from monolith_py.clock import Clock
from monolith_py.io import Kv
from monolith_py.observe import metrics
from monolith_streaming.joiner.loop import JoinerLoop

# Wall-clock seconds between two looks at the ends of the inputs: one request to the log for each topic and partition.
_INTERVAL_S = 15.0
# Share of a new value in the mean size of a request.
_WEIGHT = 1 / 256


class MeasuredKv:
    """A `Kv` that keeps the mean size of the values put under `prefix`: a total would need the size of every key."""

    def __init__(self, kv: Kv, prefix: str) -> None:
        self._kv, self._prefix = kv, prefix
        self.mean_bytes = 0.0

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None for an absent one."""
        return self._kv.get_many(keys)

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes] | None = None) -> None:
        """Put, then delete, in one atomic, durable step."""
        self._kv.write(puts, deletes, expect)
        for key, value in puts.items():
            if key.startswith(self._prefix):
                size = len(key) + len(value)
                self.mean_bytes += (size - self.mean_bytes) * (_WEIGHT if self.mean_bytes else 1.0)

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield every (key, value) with a key that starts with `prefix`."""
        return self._kv.scan(prefix)

    def close(self) -> None:
        """Free connections and files."""
        self._kv.close()


class JoinerGauges:
    """Sets the gauges of `loop`, whose store is `kv`."""

    def __init__(self, loop: JoinerLoop, kv: MeasuredKv, clock: Clock) -> None:
        self._loop, self._kv, self._clock = loop, kv, clock
        self._due_s = clock.monotonic_s()

    def step(self) -> int:
        """Run a step of the loop and return the number of records read; set the gauges if they are due."""
        started_s = self._clock.monotonic_s()
        num_records = self._loop.step()
        now_s = self._clock.monotonic_s()
        if num_records:
            metrics.JOINER_STEP_DURATION_SECONDS.observe(now_s - started_s)
        if now_s >= self._due_s:
            self._due_s = now_s + _INTERVAL_S
            self.report()
        return num_records

    def report(self) -> None:
        """Set the gauges."""
        offsets, topics = self._loop.offsets, self._loop.inputs
        for (partition, input_topic), end in self._loop.ends().items():
            lag = max(end - offsets[partition, input_topic], 0)
            metrics.INPUT_LAG_RECORDS.labels(topic=topics[input_topic], partition=str(partition)).set(lag)
        num_requests = self._loop.num_requests
        metrics.JOINER_REQUESTS.set(num_requests)
        metrics.JOINER_STATE_BYTES.set(num_requests * self._kv.mean_bytes)

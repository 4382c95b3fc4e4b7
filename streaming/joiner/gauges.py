"""Gauges of a running joiner: records behind, duration of steps, size of the state."""

from __future__ import annotations

from monolith_py.clock import Clock
from monolith_py.observe import metrics
from monolith_streaming.joiner.loop import JoinerLoop

# Wall-clock seconds between two looks at the ends of the inputs: one request to the log for each topic and partition.
_INTERVAL_S = 15.0


class JoinerGauges:
    """Sets the gauges of `loop`."""

    def __init__(self, loop: JoinerLoop, clock: Clock) -> None:
        self._loop, self._clock = loop, clock
        self._due_s = clock.monotonic_s()
        self._reported: set[tuple[str, str]] = set()  # topics and partitions with a lag

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
        before, self._reported = self._reported, set()
        for (partition, input_topic), end in self._loop.ends().items():
            lag, labels = max(end - offsets[partition, input_topic], 0), (topics[input_topic], str(partition))
            metrics.INPUT_LAG_RECORDS.labels(*labels).set(lag)
            self._reported.add(labels)
        for labels in before - self._reported:
            metrics.INPUT_LAG_RECORDS.remove(*labels)  # of a partition that another joiner reads now
        metrics.JOINER_REQUESTS.set(self._loop.num_requests)
        metrics.JOINER_STATE_BYTES.set(self._loop.num_bytes)

"""Appends of the steps of several partitions at the same time: each waits for a transaction of its own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from monolith_py import _core
from monolith_py.errors import Fenced
from monolith_streaming.joiner.partition import PartitionState

# Appends at the same time. Each is one connection that waits, of a writer that is there anyway.
_MAX_THREADS = 32


class ConcurrentSteps:
    """Threads that append the open steps of partitions, each partition in one of them."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def write(self, partitions: Sequence[PartitionState]) -> list[tuple[PartitionState, Fenced | None]]:
        """Append the open step of each partition, and return each with the error of one that another joiner has taken.

        All appends have ended when this returns or raises.

        Raises:
            LogError: the log was away for too long for at least one partition.
        """
        steps = [(partition, partition.joiner.core.written()) for partition in partitions]
        if sum(len(step) > 0 for _, step in steps) <= 1:
            return [(partition, _write(partition, step)) for partition, step in steps]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="step")
        begun: list[Future[Fenced | None]] = [self._threads.submit(_write, partition, step) for partition, step in steps]
        for future in begun:
            future.exception()
        return [(partition, future.result()) for partition, future in zip(partitions, begun, strict=True)]

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()


def _write(partition: PartitionState, step: _core.JoinedStep) -> Fenced | None:
    try:
        partition.writer.write(step, partition.position)
    except Fenced as error:
        return error
    return None

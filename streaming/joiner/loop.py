"""The joiner's loop: reads both topics, joins, and writes a step to the log, then its state to Kv.

A step
1. reads records of each partition and joins them,
2. advances the watermark and closes windows.
It is committed when `OpenStep` says so:
3. append dead letters, and actions to other partitions (at least once: a crash before 4 appends them again),
4. append the examples of each partition, whole and with the step's number and progress, all partitions at the same time,
5. write waiting requests, counters and position in one Kv transaction.
A crash before 4 leaves nothing behind; after a crash between 4 and 5 `start` brings the state up to the log, as it does for an older state.
So every example is in the log exactly once. Another joiner that has taken a partition meanwhile has fenced this one: 4 and 5 then drop the
partition. The joiners of a job share the partitions (`group`, `share`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import Fenced
from monolith_py.io import Kv, Log
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.io.log.topics import Topics
from monolith_py.io.retrying import RetryingKv, RetryingLog, RetryPolicy
from monolith_py.observe import metrics
from monolith_streaming.joiner.census import Census
from monolith_streaming.joiner.commit import Commits, lost
from monolith_streaming.joiner.concurrent_steps import ConcurrentSteps
from monolith_streaming.joiner.core_partition import Judge
from monolith_streaming.joiner.emit import MAX_RECORD_BYTES, Encoding
from monolith_streaming.joiner.forwarding import Forwarding
from monolith_streaming.joiner.group import Group
from monolith_streaming.joiner.member import own_name
from monolith_streaming.joiner.open_step import OpenStep
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.partition_count import PartitionCount
from monolith_streaming.joiner.position import StateKeys
from monolith_streaming.joiner.reader import Reader
from monolith_streaming.joiner.recovery import Recovery
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.share import Share
from monolith_streaming.joiner.start import Start
from monolith_streaming.joiner.step_writer import WRITER, StepWriter
from monolith_streaming.joiner.watermark import InputTopic, check_wall_clock

_logger = logging.getLogger(__name__)

# Offset in dead letters of a record that was never in the log.
NO_OFFSET = -1
# Wall-clock wait for records after a round of reads without any, over all partitions, and of one read: a record of the other topic waits.
_IDLE_WAIT_S, _READ_WAIT_S = 0.05, 0.01


class JoinerLoop:
    """Joins this process's share of the partitions of a job's topics. `should_stop` ends the retries while a store is away.

    `name`: of this joiner among those of the job.
    """

    def __init__(
        self,
        job: JobConfig,
        log: Log,
        kv: Kv,
        clock: Clock,
        should_stop: Callable[[], bool] = lambda: False,
        name: str | None = None,
    ) -> None:
        self._job, self._clock, self._name = job, clock, name or own_name()
        self._is_closing = self._force = self._is_idle = False
        self._should_stop = lambda: self._is_closing or should_stop()
        self._topics = Topics.of(job.log)
        self._keys = StateKeys(job.name, self._topics.examples)
        group_kv = RetryingKv(kv, RetryPolicy(clock, self._should_stop))
        group = Group(group_kv, self._keys, self._name, job.joiner.session_timeout_s, clock)
        self._share = Share(group, group_kv, self._keys, clock, self._take)
        # A joiner that gets on with its calls lives.
        self._retry = RetryPolicy(clock, self._should_stop, group.beat)
        self._log, self._kv = RetryingLog(log, self._retry), RetryingKv(kv, self._retry)
        self._rules = Rules.of(job)
        self._inputs = {InputTopic.IMPRESSIONS: self._topics.impressions, InputTopic.ACTIONS: self._topics.actions}
        self._patterns = WirePatterns(Schema.of(job).dense_dims)
        self._judge, self._census = Judge(job, self._patterns), Census(self._rules)
        self._commits = Commits(self._kv, self._keys, job, self._log, self._judge)
        self._readers: WeakKeyDictionary[PartitionState, Reader] = WeakKeyDictionary()  # a partition given up leaves no memory
        self._dead_letters = DeadLetters(log, self._topics.dead_letters, clock)
        waits_ms = round((job.joiner.window_s + job.joiner.max_out_of_orderness_s) * 1000)
        self._forwarding = Forwarding(log, self._topics.actions, self._retry, waits_ms)
        self._count = PartitionCount(self._log, (*self._inputs.values(), self._topics.examples), clock.monotonic_s())
        self._steps = ConcurrentSteps()
        self._open_step = OpenStep(job.joiner, clock)

    def start(self, *, force: bool = False, must_be_alone: bool = False) -> None:
        """Join the group, take the partitions of this joiner's share that are free or of a dead one, and bring their state up to the log.

        With `force` and with `must_be_alone`: take all partitions, and wait for the other joiners of the job to give them up or to be dead.

        Raises:
            ConfigError: the topics do not have the same number of partitions.
            StateMismatch: the state does not follow the log, and not `force`.
            AlreadyRunning: another joiner lives, and this one must be alone.
        """
        self._count.start()
        self._force = force
        if force or must_be_alone:
            self._share.settle(self._count.number, self.commit, self._should_stop, must_be_alone=must_be_alone)
        else:
            self._share.follow(self._count.number, self.commit)
        self._force = False

    def close(self) -> None:
        """Give up the partitions and leave the group."""
        self._is_closing = True
        self._steps.close()
        self._share.close()

    def _take(self, number: int, before: bytes | None) -> PartitionState:
        """Take a partition from its owner `before`."""
        topics = (*self._inputs.values(), self._topics.examples)
        infos = {topic: self._log.describe(topic) for topic in topics}
        ids = {topic: info.id for topic, info in infos.items()}
        start = Start(self._job, self._log, self._kv, self._rules, self._clock, ids, self._name.encode(), self._force)
        tasks = self._rules.tasks, self._rules.labels
        recovery = Recovery(self._log, self._topics, tasks, self._judge, self._clock, lambda one: self._commits.write([one]))
        open_writer = partial(self._writer, most=infos[self._topics.examples].max_record_bytes)
        partition = start.take(number, before, open_writer, recovery)
        if self._force:
            partition.joiner.forget_wall_clock(self._clock.now_ms())
        self._readers[partition] = Reader(self._job, self._log, self._judge, self._clock, (number, partition.joiner))
        return partition

    @property
    def _partitions(self) -> list[PartitionState]:
        return self._share.partitions

    @property
    def owns_its_share(self) -> bool:
        """Return whether this joiner owns all that is assigned to it, and nothing is unknown of other joiners."""
        return self._share.is_complete

    def _writer(self, number: int, most: int | None) -> StepWriter:
        examples = self._topics.examples
        encoding = Encoding(self._rules, self._patterns, self._job.joiner.examples_per_record)
        refused = partial(self._dead_letters.put, examples, number, NO_OFFSET)
        max_bytes = MAX_RECORD_BYTES if most is None else min(most, MAX_RECORD_BYTES)
        writer = self._log.writer(examples, number, WRITER)
        return StepWriter(self._log, examples, number, writer, encoding, refused, self._retry, max_bytes)

    def step(self) -> int:
        """Read and join records, commit if it is time, and return the number of records read.

        Waits for records, up to 50 ms and 10 ms for one read, if the previous call found none.

        Raises:
            ClockStepped: the wall clock went back, so sound records would be refused.
        """
        self._look()
        num_records, has_more = 0, False
        if not self._partitions:
            self._clock.sleep(_IDLE_WAIT_S)
            return 0
        wait_s = min(_READ_WAIT_S, _IDLE_WAIT_S / (len(InputTopic) * len(self._partitions))) if self._is_idle else 0.0
        for partition in self._partitions:
            self._readers[partition].fill(wait_s)
            num, more = partition.joiner.run(self._clock.monotonic_s(), self._clock.now_ms())
            partition.count_read(self._census)
            num_records += num
            has_more |= more
        self._is_idle = num_records == 0 and not has_more
        self._open_step.note(num_records, has_changes=self._has_changes)
        if has_more or self._open_step.is_due(self._num_emitted):
            self.commit()
        return num_records

    @property
    def inputs(self) -> dict[InputTopic, str]:
        """Return the names of the input topics."""
        return self._inputs

    @property
    def offsets(self) -> dict[tuple[int, InputTopic], int]:
        """Return the offset in each input partition up to which records were processed."""
        return {(partition.number, topic): partition.position.offsets[topic] for partition in self._partitions for topic in InputTopic}

    @property
    def num_forwarded(self) -> int:
        """Return the number of actions appended to other partitions."""
        return self._forwarding.num_forwarded

    @property
    def num_requests(self) -> int:
        """Return the number of requests remembered."""
        return sum(partition.joiner.core.num_requests for partition in self._partitions)

    @property
    def num_early(self) -> int:
        """Return the number of actions that wait for their impression."""
        return sum(partition.joiner.core.num_early for partition in self._partitions)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of memory of the requests remembered, about."""
        return sum(partition.joiner.core.num_bytes for partition in self._partitions)

    def ends(self) -> dict[tuple[int, InputTopic], int]:
        """Return the current end offset of each input partition."""
        return {
            (partition.number, input_topic): self._log.end_offset(topic, partition.number)
            for partition in self._partitions
            for input_topic, topic in self._inputs.items()
        }

    def has_reached(self, ends: dict[tuple[int, InputTopic], int]) -> bool:
        """Return whether all records before `ends` were read."""
        offsets = self.offsets
        return all(place in offsets and offsets[place] >= end for place, end in ends.items())

    def close_all(self) -> None:
        """Commit, close every window as if its time had passed, and commit again.

        Actions that wait for their impression go on waiting: a later run may read it.
        """
        self.commit()
        for partition in list(self._partitions):
            while partition in self._partitions and partition.joiner.core.close_some(refuses_early=False):
                self.commit()
            self.commit()
        self._share.check_whole()

    def commit(self) -> None:
        """Make the open step durable, if there is one. The numbers are those of the module's docstring."""
        if not self._has_changes:
            return
        letters = [letter for partition in self._partitions for letter in self._commits.letters(partition, self._counts)]
        self._retry.run(lambda: self._dead_letters.put_all(letters))  # 3
        self._forwarding.forward(self._partitions, self._counts)
        for partition in self._partitions:
            partition.joiner.note_progress()
        self._open_step.close(self._num_emitted)
        for partition, fenced in self._steps.write(self._partitions):  # 4
            if fenced is None:
                partition.joiner.note_step()
            else:
                self._share.lose(partition, fenced)
        self._observe()
        self._write_owned()  # 5

    def _write_owned(self) -> None:
        """Write the changes of all partitions to Kv; drop those that another joiner has taken."""
        while self._partitions:
            try:
                self._commits.write(self._partitions)
            except Fenced as error:
                dropped = lost(self._kv, self._partitions)
                if not dropped:
                    raise
                for partition in dropped:
                    self._share.lose(partition, error)
            else:
                break

    @property
    def _has_changes(self) -> bool:
        return self._open_step.num_records > 0 or any(partition.joiner.core.has_changes for partition in self._partitions)

    @property
    def _num_emitted(self) -> int:
        return max((partition.joiner.core.num_emitted for partition in self._partitions), default=0)

    def _look(self) -> None:
        """Look at the wall clock, and now and then at the census, the number of partitions and the group."""
        now_ms, skew_ms = self._clock.now_ms(), round(self._job.log.max_clock_skew_s * 1000)
        for partition in self._partitions:
            check_wall_clock(partition.position.watermark, now_ms, skew_ms)
        now_s = self._clock.monotonic_s()
        self._census.report(now_s)
        self._count.look(now_s)
        if self._share.is_due:
            self._share.follow(self._count.number, self.commit)
        self._forwarding.watch(self._partitions, self._counts, self._share.view, now_ms)

    @property
    def _counts(self) -> list[int]:
        """Return the numbers of partitions so far, the present one last."""
        view = self._share.view
        before = [count for _, count in view.counts if count < self._count.number] if view is not None else []
        return [*before, self._count.number]

    def _observe(self) -> None:
        for partition in self._partitions:
            partition.observe(self._counts)
        metrics.JOINER_CANDIDATES_WAITING.set(sum(partition.joiner.core.num_waiting for partition in self._partitions))
        watermarks = [partition.position.watermark.watermark_ms for partition in self._partitions]
        metrics.JOINER_WATERMARK_TIMESTAMP_SECONDS.set(min((ms for ms in watermarks if ms is not None), default=0) / 1000)

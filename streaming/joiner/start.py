"""Takeover of a partition: from the joiner that had it before, with a comparison of the state in Kv with the log and the job.

1. Become the only writer: of the state in Kv, if nobody was sooner, then of the partition of `examples`.
2. Read the position from Kv, and the joiner's last step from the log. Without a position, the last step says from where the state can be
   built again.
3. Restore the waiting requests.
4. Where the log has steps after the position, bring the state up to them (`recovery`).

The log is the truth. A state that cannot be brought up to it is refused: going on would write examples twice or skip impressions in
silence. `--force` goes on all the same, with a new series of steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import Fenced, StateMismatch, WireError
from monolith_py.io import Kv, Log
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.commit import commit
from monolith_streaming.joiner.core_partition import CorePartition, core_settings
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.position import OpenPlace, Position, Progress, StateKeys, decode_position
from monolith_streaming.joiner.recovery import Recovery
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.step_writer import StepWriter
from monolith_streaming.joiner.tail import Tail, has_foreign, last_step, read_tail

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Parts of a joiner that takes a partition; `force`: take it although the state does not follow the log."""

    job: JobConfig
    log: Log
    kv: Kv
    rules: Rules
    clock: Clock
    ids: Mapping[str, str]  # of the topics, by name
    owner: bytes  # name of this joiner
    force: bool = False

    @property
    def topics(self) -> Topics:
        """Return the topics of the job."""
        return Topics.of(self.job.log)

    @property
    def keys(self) -> StateKeys:
        """Return the keys of the state."""
        return StateKeys(self.job.name, self.topics.examples)

    def take(self, number: int, before: bytes | None, open_writer: Callable[[int], StepWriter], recovery: Recovery) -> PartitionState:
        """Return the state of a partition after the last step in the log; `before` is its owner now, as stored.

        Raises:
            Fenced: another joiner was sooner.
            StateMismatch: the state does not follow the log, and cannot be brought up to it.
        """
        self._own(number, before)  # 1
        writer = open_writer(number)
        try:
            partition, tail = self._open(writer)  # 2
            self._restore(partition)  # 3
            partition.joiner.resume()
            if tail.last is not None:
                self._recover(partition, tail, recovery)  # 4
            commit(self.kv, self.keys, [partition], {}, [])
        except BaseException as error:
            writer.close()
            if isinstance(error, (StateMismatch, WireError)) and self.kv.get_many([self.keys.owner(number)]) != [self.owner]:
                raise Fenced(f"partition {number} must keep its owner while it is taken, got another one: {error}") from None
            raise
        line = "%r[%d]: reading on at offsets %s, %d requests remembered, epoch %d"
        position, num_requests = partition.position, partition.joiner.core.num_requests
        _logger.info(line, self.keys.examples, number, position.offsets, num_requests, position.epoch)
        return partition

    def _own(self, number: int, before: bytes | None) -> None:
        key = self.keys.owner(number)
        try:
            self.kv.write({key: self.owner}, (), {key: before})
        except Fenced:
            # An attempt whose answer was lost may have done it.
            if self.kv.get_many([key]) != [self.owner]:
                raise

    def _open(self, writer: StepWriter) -> tuple[PartitionState, Tail]:
        """Return a partition at the position of the store, and the steps after it in the log."""
        number = writer.number
        (value,) = self.kv.get_many([self.keys.position(number)])
        position = self._stored(number, value)
        try:
            if position is None:
                position = self._position_of_log(number)
            self._check_reach(number, position)
            position, tail = self._follow(number, position)
        except StateMismatch as error:
            if not self.force:
                raise StateMismatch(f"{error}. With --force the joiner goes on, and may write examples twice") from None
            _logger.warning("going on by force: %s", error)
            position, tail = self._forced(number, value), Tail()
        position.epoch = 1 + max(position.epoch, tail.last.step.epoch if tail.last is not None else 0)
        settings = core_settings(self.job, self.rules, Schema.of(self.job).dense_dims)
        joiner = CorePartition(settings, self.rules, position, self.clock.monotonic_s())
        joiner.expected = {self.keys.owner(number): self.owner} | ({} if value is None else {self.keys.position(number): value})
        return PartitionState(number, joiner, writer), tail

    def _stored(self, number: int, value: bytes | None) -> Position | None:
        """Return the position of the store, None without one or with a state that only an older release reads."""
        position = None if value is None else decode_position(value)
        if position is None or position.has_state:
            return position
        _logger.warning("%r[%d]: the state in the store is of an older release: building it again from the log", self.keys.examples, number)
        return None

    def _follow(self, number: int, position: Position) -> tuple[Position, Tail]:
        """Return the position, and the steps after it in the log.

        A store that has no step yet beside those of another store is like one without a position: it has nothing that the log lacks.

        Raises:
            StateMismatch: the log does not follow the position.
        """
        examples = self.topics.examples
        try:
            return position, read_tail(self.log, examples, number, position)
        except StateMismatch as error:
            found = last_step(self.log, examples, number, 0)
            if position.step or found is None or found.step.series == position.series:
                raise
            _logger.warning("the store has no step yet, its state is built from the log: %s", error)
        position = self._position_of_log(number)
        return position, read_tail(self.log, examples, number, position)

    def _position_of_log(self, number: int) -> Position:
        """Return the position from which the state can be built, for a store without one; any waiting requests in it are dropped.

        Raises:
            StateMismatch: the log has examples and no step of a joiner.
        """
        examples = self.topics.examples
        found = last_step(self.log, examples, number, 0)
        if found is None:
            if has_foreign(self.log, examples, number):
                rule = "must have no examples of a joiner without steps while the store has no position"
                raise StateMismatch(f"{examples!r}[{number}] {rule}: restore the store")
            return self._fresh(number)
        self._drop_waiting(number)
        place, step = found.progress.open, found.step
        start = self.log.start_offset(examples, number)
        if start > place.examples:
            rule = f"must have its records from {place.examples} on, while the store has no position"
            raise StateMismatch(f"{examples!r}[{number}] {rule}, got {start}: restore the store")
        progress = Progress([place.impressions, place.actions], open=place, topics=found.progress.topics)
        position = Position(progress, place.examples, step.series, place.step, step.epoch)
        position.topic, position.tasks = self.ids[examples], list(self.rules.tasks)
        return position

    def _fresh(self, number: int) -> Position:
        """Return the position before the first record, with a new series."""
        starts = [self.log.start_offset(topic, number) for topic in (self.topics.impressions, self.topics.actions)]
        end = self.log.end_offset(self.topics.examples, number)
        ids = [self.ids[topic] for topic in (self.topics.impressions, self.topics.actions)]
        progress = Progress(starts, open=OpenPlace(starts[0], starts[1], end, 0), topics=ids)
        series, topic = self._new_series(number, 0), self.ids[self.topics.examples]
        return Position(progress, end, series, topic=topic, tasks=list(self.rules.tasks))

    def _forced(self, number: int, value: bytes | None) -> Position:
        """Return the position of the store with a new series; that of a store of another log is dropped."""
        position = self._stored(number, value)
        try:
            if position is not None:
                self._check_reach(number, position)
        except StateMismatch:
            _logger.warning("%r[%d]: the state in the store is of another log and is dropped", self.keys.examples, number)
            position = None
        if position is None:
            self._drop_waiting(number)
            return self._fresh(number)
        position.series, position.step = self._new_series(number, position.series), 0
        position.examples_end = self.log.end_offset(self.topics.examples, number)
        position.progress.open = OpenPlace(position.offsets[0], position.offsets[1], position.examples_end, 0)
        return position

    def _new_series(self, number: int, before: int) -> int:
        """Return the name of a new series, larger than those before it."""
        found = last_step(self.log, self.topics.examples, number, 0)
        return max(self.clock.now_ms(), before + 1, found.step.series + 1 if found is not None else 0)

    def _check_reach(self, number: int, position: Position) -> None:
        """Check that the log has the topics of the position, and reaches it.

        Raises:
            StateMismatch: a topic was made again, is that of another log, or has lost records.
        """
        names = (self.topics.impressions, self.topics.actions, self.topics.examples)
        for topic, expected in zip(names, [*position.progress.topics, position.topic], strict=True):
            if (got := self.ids[topic]) != expected:
                raise StateMismatch(
                    f"{topic!r} must be the topic with the id {expected}, whose offsets the state has, got {got}: made again"
                )
        ends = dict(zip((self.topics.impressions, self.topics.actions), position.offsets, strict=True))
        for topic, offset in {**ends, self.topics.examples: position.examples_end}.items():
            end = self.log.end_offset(topic, number)
            if offset > end:
                rule = f"must reach offset {offset}, up to which the store says it was processed"
                raise StateMismatch(f"{topic!r}[{number}] {rule}, got {end}: another log, or one that has lost records")

    def _recover(self, partition: PartitionState, tail: Tail, recovery: Recovery) -> None:
        try:
            recovery.run(partition, tail)
        except StateMismatch as error:
            if not self.force:
                raise
            _logger.warning("going on by force: %s", error)
            value = self.kv.get_many([self.keys.position(partition.number)])[0]
            partition.joiner.position = self._forced(partition.number, value)
            partition.joiner.resume()

    def _drop_waiting(self, number: int) -> None:
        blocks = [key for key, _ in self.kv.scan(self.keys.blocks(number))]
        self.kv.write({}, blocks, {self.keys.owner(number): self.owner})  # they may be those of a joiner that has taken it meanwhile

    def _restore(self, partition: PartitionState) -> None:
        """Restore the waiting requests of a partition, block by block; labels are carried over by name if the job's tasks changed.

        Raises:
            WireError: a block of them is damaged or absent.
        """
        number, position, core = partition.number, partition.position, partition.joiner.core
        name, tasks = f"{self.keys.examples!r}[{number}]: waiting requests in the store", list(self.rules.tasks)
        for block in range(*position.blocks):
            (value,) = self.kv.get_many([self.keys.block(number, block)])
            try:
                core.restore_block(block, b"" if value is None else value)
            except ValueError as error:
                raise WireError(f"{name} must be whole: block {block}: {error}") from None
        core.restored()
        if position.tasks != tasks:
            line = "%r[%d]: tasks were %s and are %s; labels of waiting requests are carried over by name"
            _logger.warning(line, self.keys.examples, number, position.tasks, tasks)
            position.tasks = tasks

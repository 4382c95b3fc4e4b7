"""Start of a joiner: its state from Kv, compared with the log and the job, and the delivery of the last outbox.

A store that was emptied, restored or belongs to another log is recognised by what is written in it. Going on would write examples twice
or skip impressions in silence, so it is refused unless the joiner is started with `--force`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from monolith_py.config import JobConfig
from monolith_py.errors import StateMismatch
from monolith_py.io import Kv, Log
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.outbox import Outbox, decode_outbox, deliver, num_foreign
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.position import Position, StateKeys, decode_position, encode_position
from monolith_streaming.joiner.request_joiner import RequestJoiner
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.waiting import decode_waiting, encode_waiting, relabel
from monolith_streaming.joiner.watermark import Watermark

_logger = logging.getLogger(__name__)

# Offset in dead letters of a record that was never in the log.
NO_OFFSET = -1


@dataclass(frozen=True)
class Start:
    """Parts of a joiner that its start needs; `force`: start although the state does not follow the log."""

    job: JobConfig
    log: Log
    kv: Kv
    rules: Rules
    dead_letters: DeadLetters
    force: bool = False

    @property
    def keys(self) -> StateKeys:
        """Return the keys of the state."""
        return StateKeys(self.job.name, Topics.of(self.job.log).examples)

    def open(self, num_partitions: int, now_s: float) -> list[PartitionState]:
        """Return the state of each partition at the last commit, after delivering its outbox.

        Raises:
            StateMismatch: the state does not follow the log.
        """
        partitions = [self._open(number, now_s) for number in range(num_partitions)]
        self._restore(partitions)
        for partition in partitions:
            place, num_requests = partition.position.offsets, partition.joiner.num_requests
            name = self.keys.examples
            _logger.info("%r[%d]: reading on at offsets %s, %d requests remembered", name, partition.number, place, num_requests)
        return partitions

    def _open(self, number: int, now_s: float) -> PartitionState:
        keys, settings = self.keys, self.job.joiner
        position_value, outbox_value = self.kv.get_many([keys.position(number), keys.outbox(number)])
        outbox = None if outbox_value is None else decode_outbox(outbox_value)
        if position_value is None:
            position = self._fresh(number)
        else:
            position = decode_position(position_value)
            if not self._is_of_this_log(number, position):
                position, outbox = self._anew(number), None
            elif not self.force:
                self._check_follows(number, position, outbox)
        if outbox is not None:
            refused = lambda value, reason: self.dead_letters.put(keys.examples, number, NO_OFFSET, value, reason)  # noqa: E731
            position.examples_end = deliver(self.log, keys.examples, number, outbox, refused)
        watermark = Watermark(self.rules.max_out_of_orderness_ms, settings.idle_timeout_s, position.watermark, now_s)
        joiner = RequestJoiner(self.rules, self.kv, keys.waiting_of(number))
        return PartitionState(number, position, watermark, joiner, outbox_value is not None)

    def _fresh(self, number: int) -> Position:
        """Return the position before the first record.

        Raises:
            StateMismatch: the log has examples of a joiner, so the store has lost its state.
        """
        topics = Topics.of(self.job.log)
        if not self.force and num_foreign(self.log, topics.examples, number, 0, ()):
            rule = "must have no examples of a joiner while the store has no position of one"
            raise StateMismatch(f"{topics.examples!r}[{number}] {rule}: restore the store, or join the whole log again with --force")
        starts = [self.log.start_offset(topic, number) for topic in (topics.impressions, topics.actions)]
        return Position(starts, self.log.end_offset(topics.examples, number), tasks=list(self.rules.tasks))

    def _is_of_this_log(self, number: int, position: Position) -> bool:
        """Return whether the log reaches the position.

        Raises:
            StateMismatch: it does not, and the joiner was not started with `--force`.
        """
        topics = Topics.of(self.job.log)
        for index, topic in enumerate((topics.impressions, topics.actions)):
            end = self.log.end_offset(topic, number)
            if position.offsets[index] > end:
                if self.force:
                    return False
                rule = f"must reach offset {position.offsets[index]}, up to which the store says it was read"
                raise StateMismatch(f"{topic!r}[{number}] {rule}, got {end}: another log; read it from its start with --force")
        return True

    def _anew(self, number: int) -> Position:
        """Forget the state of another log, and return the position before the first record of this one."""
        _logger.warning("%r[%d]: the state in the store is of another log and is dropped", self.keys.examples, number)
        self.kv.write({}, [key for key, _ in self.kv.scan(self.keys.waiting_of(number))])
        return self._fresh(number)

    def _check_follows(self, number: int, position: Position, outbox: Outbox | None) -> None:
        """Check that the log has no examples that are younger than the state.

        Raises:
            StateMismatch: it has.
        """
        examples = self.keys.examples
        start, own = (position.examples_end, ()) if outbox is None else (outbox.start, outbox.values)
        if num := num_foreign(self.log, examples, number, start, own):
            rule = f"must have no examples after the last commit in the store, got {num} records"
            cause = "the store is older than the log, or another joiner runs"
            raise StateMismatch(f"{examples!r}[{number}] {rule}: {cause}. With --force their impressions are joined again")

    def _restore(self, partitions: list[PartitionState]) -> None:
        """Restore all waiting requests in one scan; carry their labels over if the job's tasks changed."""
        tasks, prefix = list(self.rules.tasks), self.keys.waiting
        puts: dict[str, bytes] = {}
        for key, value in self.kv.scan(prefix):
            number, _, request_id = key[len(prefix) :].partition(":")
            if not number.isdecimal() or int(number) >= len(partitions):
                continue
            partition = partitions[int(number)]
            waiting = decode_waiting(request_id, value)
            if partition.position.tasks != tasks:
                relabel(waiting.request, partition.position.tasks, tasks)
                puts[key] = encode_waiting(waiting, waiting.impression is not None)
            partition.joiner.restore(waiting.request)
        for partition in partitions:
            if partition.position.tasks != tasks:
                line = "%r[%d]: tasks were %s and are %s; labels of waiting requests are carried over by name"
                _logger.warning(line, self.keys.examples, partition.number, partition.position.tasks, tasks)
                partition.position.tasks = tasks
                puts[self.keys.position(partition.number)] = encode_position(partition.position)
        if puts:
            self.kv.write(puts)

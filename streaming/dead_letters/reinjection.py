"""Dead letters back to their topic, each once, also if the process is killed at any moment.

For the letters of one topic and partition, up to 500 at a time:
1. write a re-injection as begun, with the letters' offsets and the present end of the partition, to the topic of dead letters;
2. append the values to the partition; an action or impression goes to the partition of its request id;
3. read the partition from that end to find the offsets of the values, append those that are missing, and write the re-injection as done.
A run that finds one begun a minute ago and not done does step 3 for it first. One that is younger may be at work: the run is refused.

A letter whose record was put back before has that record's place, so the ledger knows how often it has failed: it stays after
`max_attempts`. Values that an app appends itself, byte for byte the same and behind that end, count as put back.
"""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from monolith_py.clock import Clock
from monolith_py.data.events import DeadLetter, LetterKind, Reinjection
from monolith_py.errors import AlreadyRunning, RecordRefused, WireError
from monolith_py.io import Log
from monolith_py.io.codec import decode_action, decode_impression, encode_reinjection
from monolith_py.io.log.dead_letters import read_letter_records
from monolith_py.io.log.topics import Topics, partition_of
from monolith_streaming.dead_letters.ledger import Ledger
from monolith_streaming.dead_letters.selection import Selection

_BATCH_RECORDS, _BATCH_BYTES = 500, 4 << 20
_READ_RECORDS = 500
# A run that has written nothing for so long is dead.
_LEASE_MS = 60_000
_Letters = list[tuple[int, DeadLetter]]


class Reinjector:
    """Puts letters of a job back to their topics."""

    def __init__(self, log: Log, topics: Topics, clock: Clock, *, max_attempts: int = 1) -> None:
        self._log, self._topics, self._clock, self._max_attempts = log, topics, clock, max_attempts
        self._ledger, self._end = Ledger(), 0
        self._partitions = {topic: log.num_partitions(topic) for topic in (topics.impressions, topics.actions, topics.examples)}

    def run(self, selection: Selection) -> Counter[str]:
        """Put the selected letters back and return their number under "put back", and under the reason those that stay.

        Late ones stay unless `selection` names their kind.

        Raises:
            AlreadyRunning: another run has begun a re-injection within the last minute.
        """
        results: Counter[str] = Counter()
        self._read_ledger()
        results["put back"] += self._finish_open()
        pending: dict[tuple[str, int], _Letters] = defaultdict(list)
        sizes: Counter[tuple[str, int]] = Counter()
        for offset, letter in self._selected(selection, results):
            target = letter.topic, self._partition(letter)
            pending[target].append((offset, letter))
            sizes[target] += len(letter.value)
            if len(pending[target]) >= _BATCH_RECORDS or sizes[target] >= _BATCH_BYTES:
                results["put back"] += self._put_back(target, pending.pop(target))
                del sizes[target]
        for target, letters in pending.items():
            results["put back"] += self._put_back(target, letters)
        return results

    def _read_ledger(self) -> None:
        """Take up the records of the topic of dead letters since the last call."""
        for offset, record in read_letter_records(self._log, self._topics.dead_letters, self._end):
            self._ledger.note(offset, record)
            self._end = offset + 1

    def _selected(self, selection: Selection, results: Counter[str]) -> Iterator[tuple[int, DeadLetter]]:
        """Yield the letters to put back; count those that stay by reason."""
        ledger, end = self._ledger, self._end
        for offset, letter in read_letter_records(self._log, self._topics.dead_letters, 0):
            if offset >= end:
                break
            if not isinstance(letter, DeadLetter) or not selection.takes(letter) or offset in ledger.put_back:
                continue
            if letter.kind is LetterKind.LATE and selection.kind is None:
                results["late, and late again if put back: name --kind late to do it all the same"] += 1
            elif letter.topic not in self._partitions:
                results["of a topic of another job"] += 1
            elif letter.value_bytes or not letter.value:
                results["cut: the message is not whole"] += 1
            elif ledger.attempts(offset) >= self._max_attempts:
                results["failed again"] += 1
            else:
                yield offset, letter

    def _put_back(self, target: tuple[str, int], letters: _Letters) -> int:
        topic, partition = target
        begun = Reinjection(
            secrets.token_hex(8),
            "begun",
            tuple(offset for offset, _ in letters),
            topic,
            partition,
            self._log.end_offset(topic, partition),
            time_ms=self._clock.now_ms(),
        )
        self._write(begun)  # 1
        self._read_ledger()
        first = next(iter(self._ledger.open.values()), begun)
        if first.id != begun.id:
            self._write(replace(begun, state="withdrawn"))
            raise AlreadyRunning(f"re-injection {first.id} of {first.topic!r}[{first.partition}] has begun before this one")
        return self._complete(begun, [letter for _, letter in letters])

    def _finish_open(self) -> int:
        """Finish the re-injections of runs that were killed, and return the number of their letters."""
        num = 0
        for begun in list(self._ledger.open.values()):
            age_ms = self._clock.now_ms() - begun.time_ms
            if age_ms < _LEASE_MS:
                rule = f"has begun {age_ms / 1000:.0f} s ago: it is at work, or will be finished by a run in a minute"
                raise AlreadyRunning(f"re-injection {begun.id} of {begun.topic!r}[{begun.partition}] {rule}")
            wanted = set(begun.letters)
            read = read_letter_records(self._log, self._topics.dead_letters, begun.letters[0])
            letters = [letter for offset, letter in read if offset in wanted and isinstance(letter, DeadLetter)]
            num += self._complete(begun, letters)
        self._read_ledger()
        return num

    def _complete(self, begun: Reinjection, letters: Sequence[DeadLetter]) -> int:
        """Append the values that the partition lacks, and write the re-injection as done."""
        topic, partition = begun.topic, begun.partition
        values = [letter.value for letter in letters]
        missing = values[len(self._find(begun, values)) :]
        if missing:
            times_ms = [_time_ms(self._topics, letter) for letter in letters[len(letters) - len(missing) :]]
            try:
                self._log.append(topic, missing, time_ms=times_ms, partition=partition)  # 2
            except RecordRefused as error:
                self._write(replace(begun, state="withdrawn"))
                raise RecordRefused(f"no letter of {topic!r}[{partition}] was put back: {error}") from error
        offsets = self._find(begun, values)
        self._write(replace(begun, state="done", offsets=tuple(offsets), time_ms=self._clock.now_ms()))  # 3
        return len(letters)

    def _find(self, begun: Reinjection, values: Sequence[bytes]) -> list[int]:
        """Return the offsets of the first of `values` that are in the partition, in this order, from the start of the re-injection on."""
        topic, partition, found = begun.topic, begun.partition, list[int]()
        offset = max(begun.start, self._log.start_offset(topic, partition))
        while len(found) < len(values) and (records := self._log.read(topic, partition, offset, _READ_RECORDS)):
            for record in records:
                if len(found) < len(values) and record.value == values[len(found)]:
                    found.append(record.offset)
            offset = records[-1].offset + 1
        return found

    def _partition(self, letter: DeadLetter) -> int:
        """Return the partition of the request id; of a record without one that of the letter."""
        request_id = _request_id(self._topics, letter)
        return letter.partition if request_id is None else partition_of(request_id, self._partitions[letter.topic])

    def _write(self, reinjection: Reinjection) -> None:
        self._log.append(self._topics.dead_letters, [encode_reinjection(reinjection)], time_ms=self._clock.now_ms())


def _request_id(topics: Topics, letter: DeadLetter) -> str | None:
    try:
        if letter.topic == topics.actions:
            return decode_action(letter.value).request_id
        if letter.topic == topics.impressions:
            return decode_impression(letter.value).request_id
    except WireError:
        pass
    return None


def _time_ms(topics: Topics, letter: DeadLetter) -> int:
    """Return the event time of a letter's message, or the time at which it was put aside."""
    try:
        if letter.topic == topics.actions:
            return decode_action(letter.value).time_ms
        if letter.topic == topics.impressions:
            return decode_impression(letter.value).time_ms
    except WireError:
        pass
    return letter.time_ms

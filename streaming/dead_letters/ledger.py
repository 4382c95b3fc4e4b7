"""Ledger of re-injections, from the topic of dead letters: open ones, letters put back, and how often a record has failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from monolith_py.data.events import DeadLetter, Reinjection

_Place = tuple[str, int, int]  # topic, partition, offset


@dataclass
class Ledger:
    """Re-injections up to some offset of the topic."""

    open: dict[str, Reinjection] = field(default_factory=dict)  # begun, neither done nor withdrawn, in order
    put_back: set[int] = field(default_factory=set)  # letters of a re-injection that is done
    _places: dict[int, _Place] = field(default_factory=dict)  # of every letter
    _attempts: dict[_Place, int] = field(default_factory=dict)  # of records that were re-injected
    _letters: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of open ones

    @staticmethod
    def of(records: Iterable[tuple[int, DeadLetter | Reinjection]]) -> Ledger:
        """Return the ledger of all records of the topic, in order."""
        ledger = Ledger()
        for offset, record in records:
            ledger.note(offset, record)
        return ledger

    def note(self, offset: int, record: DeadLetter | Reinjection) -> None:
        """Take up the next record of the topic."""
        if isinstance(record, DeadLetter):
            self._places[offset] = record.topic, record.partition, record.offset
        elif record.state == "begun":
            self.open[record.id] = record
        else:
            begun = self.open.pop(record.id, None)
            if begun is not None and record.state == "done":
                self.put_back.update(begun.letters)
                for letter, at in zip(begun.letters, record.offsets, strict=False):
                    self._attempts[begun.topic, begun.partition, at] = 1 + self.attempts(letter)

    def attempts(self, letter: int) -> int:
        """Return how often the record of the letter at this offset was put back before it failed."""
        place = self._places.get(letter)
        return 0 if place is None else self._attempts.get(place, 0)

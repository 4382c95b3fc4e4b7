"""Choice of dead letters by topic, kind, reason and time, and their counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from monolith_py.data.events import DeadLetter

# Numbers of so many digits are times, offsets or ids: they differ from letter to letter.
_LONG_NUMBER = re.compile(r"\d{5,}")


@dataclass(frozen=True)
class Selection:
    """Rule that takes some dead letters; a field left out takes all.

    >>> letter = DeadLetter("actions", 0, 7, b"", "action.kind must not be empty, got ''", time_ms=5_000)
    >>> Selection(topic="actions", reason="kind must").takes(letter), Selection(until_ms=5_000).takes(letter)
    (True, False)
    """

    topic: str | None = None
    kind: str | None = None
    reason: str | None = None  # part of the text
    since_ms: int | None = None  # wall clock of putting aside
    until_ms: int | None = None  # exclusive

    def takes(self, letter: DeadLetter) -> bool:
        """Return whether the rule takes `letter`."""
        return (
            (self.topic is None or letter.topic == self.topic)
            and (self.kind is None or letter.kind == self.kind)
            and (self.reason is None or self.reason in letter.reason)
            and (self.since_ms is None or letter.time_ms >= self.since_ms)
            and (self.until_ms is None or letter.time_ms < self.until_ms)
        )


def count_by_rule(letters: Iterable[DeadLetter]) -> list[tuple[str, str, str, int]]:
    """Return (topic, kind, rule, number), most frequent first; the rule is the reason without the values of a letter."""
    counts = Counter((letter.topic, str(letter.kind), _rule(letter.reason)) for letter in letters)
    return [(*key, number) for key, number in counts.most_common()]


def _rule(reason: str) -> str:
    return _LONG_NUMBER.sub("N", reason.partition(", got ")[0])

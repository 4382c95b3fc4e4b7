"""Census of what the joiner reads: says when actions of a task's kind are missing.

Without them every example is a negative, and the model learns to predict 0: a wrong topic, a wrong kind or an app that sends nothing looks
like users who do nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from monolith_streaming.joiner.rules import Rules

_logger = logging.getLogger(__name__)

# Wall-clock seconds between two looks, and the impressions below which a look says nothing.
_INTERVAL_S = 60.0
_MIN_IMPRESSIONS = 1000


class Census:
    """Counts impressions and actions by kind since the last report."""

    def __init__(self, rules: Rules) -> None:
        self._kinds = {
            kind: [task for place, task in enumerate(rules.tasks) if bits & rules.labels.mask(place)] for kind, bits in rules.bits.items()
        }
        self._actions: Counter[str] = Counter()
        self._num_impressions = 0
        self._due_s: float | None = None

    def note(self, num_impressions: int, num_actions: Mapping[str, int]) -> None:
        """Count impressions, and actions by kinds that the rules know."""
        self._num_impressions += num_impressions
        self._actions.update(num_actions)

    def report(self, now_s: float) -> list[str]:
        """Log a warning for each kind of a task without an action, once a minute and 1,000 impressions; return these kinds."""
        if self._due_s is None:
            self._due_s = now_s + _INTERVAL_S
        if now_s < self._due_s or self._num_impressions < _MIN_IMPRESSIONS:
            return []
        self._due_s = now_s + _INTERVAL_S
        missing = [kind for kind in self._kinds if not self._actions[kind]]
        for kind in missing:
            tasks = ", ".join(self._kinds[kind])
            _logger.warning("%d impressions and no action of kind %r: every label of task %s is 0", self._num_impressions, kind, tasks)
        self._actions.clear()
        self._num_impressions = 0
        return missing

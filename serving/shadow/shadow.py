"""Shadow: scores mirrored requests with a second model and logs the scores; nobody gets them as an answer.

The impression of a request has its features as the serving model got them, so the second model sees the same. Letters: n candidates,
T tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Impression
from monolith_py.data.schema import Schema
from monolith_py.errors import LogError, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import encode_impression
from monolith_py.io.codec.impression_view import ImpressionView, parse_impression
from monolith_py.io.codec.picked_columns import pick_features
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_py.model.batch import make_batch
from monolith_py.observe.metrics import SHADOW_DROPPED, SHADOW_SCORED
from monolith_serving.log_limit import LogLimit
from monolith_serving.replica.replica import Replica
from monolith_serving.shadow.mirror import MirroredRequests
from monolith_serving.shadow.share import is_chosen

_logger = logging.getLogger(__name__)


class Shadow:
    """Second model beside the one that serves. `step` is for one thread; the replica follows its updates in another one.

    Scores go to the topic `shadow_scores` as impressions without features, with the arm and the version of the second model. The joiner
    does not read it: they are never learnt.
    """

    def __init__(self, job: JobConfig, log: Log, replica: Replica, clock: Clock) -> None:
        topics = Topics.of(job.log)
        self._log, self._topic, self._replica, self._clock = log, topics.shadow_scores, replica, clock
        self._share, self._arm, self._max_batch = job.shadow.share, job.serving.arm, job.serving.max_batch_candidates
        self._schema = Schema.of(job)
        self._patterns = WirePatterns(self._schema.dense_dims)
        self._requests = MirroredRequests(log, topics.impressions, clock, job.shadow.max_lag_s)
        self._log_limit = LogLimit(clock)

    def step(self, timeout_s: float) -> int:
        """Score the requests of one read, which waits up to `timeout_s` for the first; return the number of scored requests.

        Requests are dropped and counted while the model is not loaded or the log refuses the scores.

        Raises:
            LogError: the impressions cannot be read.
        """
        records = self._requests.read(timeout_s)
        if not self._replica.is_ready:
            _drop("not_ready", len(records))
            return 0
        views = [view for record in records if (view := self._parse(record)) is not None]
        num = 0
        for group in self._groups(views):
            num += self._score(group)
        return num

    def skip_to_end(self) -> None:
        """Go on at the present end of the impressions, after a pause."""
        self._requests.skip_to_end()

    def _parse(self, record: Record) -> ImpressionView | None:
        """Return the impression, None if it is not valid, not in the share, or has no candidate."""
        try:
            view = parse_impression(record.value, self._patterns)
        except WireError:
            _drop("broken", 1)  # the joiner puts it aside
            return None
        return view if is_chosen(view.request_id, self._share, self._arm) and view.item_ids else None

    def _groups(self, views: Sequence[ImpressionView]) -> Iterator[list[ImpressionView]]:
        """Yield the requests in groups of at most `serving.max_batch_candidates` candidates, or of one larger request."""
        group: list[ImpressionView] = []
        size = 0
        for view in views:
            num = len(view.item_ids)
            if group and size + num > self._max_batch:
                yield group
                group, size = [], 0
            group.append(view)
            size += num
        if group:
            yield group

    def _score(self, group: Sequence[ImpressionView]) -> int:
        """Score a group as one batch and append the scores; return the number of requests."""
        picks = [(view, row) for view in group for row in range(len(view.item_ids))]
        state = self._replica.state
        try:
            scores = state.predict(make_batch(pick_features(picks, self._patterns), self._schema))
        except WireError as error:
            if self._log_limit.allows("batch"):
                _logger.warning("%d requests not scored: %s", len(group), error)
            _drop("broken", len(group))
            return 0
        bounds = np.cumsum([len(view.item_ids) for view in group])[:-1]
        parts = np.split(scores, bounds)
        values = [self._record(view, part, state.version) for view, part in zip(group, parts, strict=True)]
        try:
            self._log.append(self._topic, values, time_ms=[view.time_ms for view in group])
        except LogError as error:
            if self._log_limit.allows(type(error).__name__):
                _logger.warning("scores of %d requests not appended: %s", len(group), error)
            _drop("log", len(group))
            return 0
        SHADOW_SCORED.inc(len(group))
        return len(group)

    def _record(self, view: ImpressionView, scores: np.ndarray, version: str) -> bytes:
        """Return the scores float32 (n, T) of a request as an impression without features."""
        num = len(view.item_ids)
        return encode_impression(
            Impression(
                view.request_id,
                view.time_ms,
                view.user_id,
                np.array(view.item_ids, np.int64),
                FeatureColumns(1, {}),
                FeatureColumns(num, {}),
                scores,
                self._schema.tasks,
                version,
                self._arm,
            )
        )


def _drop(reason: str, num: int) -> None:
    if num:
        SHADOW_DROPPED.labels(reason=reason).inc(num)

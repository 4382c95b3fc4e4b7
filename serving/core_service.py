"""Calls of `Rank` answered in the core, from bytes to bytes."""

from __future__ import annotations

from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from monolith_py import _core
from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.observe.metrics import IMPRESSIONS_WITHHELD
from monolith_serving.ranking.answered import on_end, time_limit_s
from monolith_serving.ranking.core_ranker import CoreRanker


class CoreService:
    """Answers Rank from many threads; a request that the core does not take is left to `RankingService`."""

    def __init__(self, ranker: CoreRanker, config: ServingConfig, clock: Clock) -> None:
        self._ranker, self._clock, self._default_s = ranker, clock, config.default_deadline_s

    def rank(self, value: bytes, context: Any) -> bytes | None:
        """Return the answer to the request `value`, None if the core does not take it.

        Raises:
            CancelledError: the caller has left.
            NotReady, KvError, Overloaded, TimeoutError, ModelNotFinite: see `CoreRanker.rank`.
        """
        deadline_s = self._clock.monotonic_s() + time_limit_s(context, self._default_s)
        if not context.is_active():
            raise CancelledError
        ranked = self._ranker.rank(value, deadline_s, context.is_active)
        if ranked is None:
            return None
        if ranked.logs_impression:
            on_end(context, partial(self._log_if_answered, ranked))
        else:
            IMPRESSIONS_WITHHELD.labels(reason="request").inc()
        return ranked.response

    def _log_if_answered(self, ranked: _core.RankedRequest, is_answered: bool) -> None:
        if is_answered:
            self._ranker.log(ranked)
        else:
            IMPRESSIONS_WITHHELD.labels(reason="unanswered").inc()

"""Calls of `Rank` answered in the core, from bytes to bytes."""

from __future__ import annotations

from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from monolith_py import _core
from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.observe.metrics import IMPRESSIONS_WITHHELD
from monolith_serving.interceptors import InCore
from monolith_serving.ranking.answered import on_end, time_limit_s
from monolith_serving.ranking.core_ranker import CoreRanker


class CoreService:
    """Answers Rank from many threads; a request that the core does not take is left to `RankingService`."""

    def __init__(self, ranker: CoreRanker, config: ServingConfig, clock: Clock) -> None:
        self._ranker, self._clock, self._default_s = ranker, clock, config.default_deadline_s

    @property
    def in_core(self) -> InCore:
        """Return the ways to answer Rank."""
        return InCore(self.rank, self.rank_at_once)

    def rank(self, value: bytes, context: Any) -> bytes | None:
        """Return the answer to the request `value`, None if the core does not take it.

        Raises:
            CancelledError: the caller has left.
            NotReady, KvError, Overloaded, TimeoutError, ModelNotFinite: see `CoreRanker.rank`.
        """
        deadline_s = self._clock.monotonic_s() + time_limit_s(context, self._default_s)
        if not context.is_active():
            raise CancelledError
        return self._answer(self._ranker.rank(value, deadline_s, context.is_active), context)

    def rank_at_once(self, value: bytes, context: Any) -> bytes | None:
        """Return the answer to the request `value`, None if it must wait for something, or the core does not take it.

        Raises:
            NotReady, Overloaded, TimeoutError, ModelNotFinite: see `CoreRanker.rank`.
        """
        deadline_s = self._clock.monotonic_s() + time_limit_s(context, self._default_s)
        return self._answer(self._ranker.rank_at_once(value, deadline_s), context)

    def keep_up(self) -> None:
        """Take over the replica's newest state, so that nothing of an earlier one is kept; to be called now and then."""
        self._ranker.keep_up()

    def _answer(self, ranked: _core.RankedRequest | None, context: Any) -> bytes | None:
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

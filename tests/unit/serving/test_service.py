"""The ranking service: the deadline of a request, and the fields of its answer."""

from __future__ import annotations

from concurrent.futures import CancelledError

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import ServingConfig
from monolith_py.data.schema import Schema
from monolith_py.pb import ranking_pb2
from monolith_serving.features.order import FeatureOrder
from monolith_serving.ranking.ranker import Ranking
from monolith_serving.service import RankingService


class KeptRequests:
    """A ranker that gives each candidate its place as score, and keeps the deadlines."""

    context_order = FeatureOrder.of(Schema((), (), ("click", "like")), "context")

    def __init__(self) -> None:
        self.deadlines_s: list[float] = []
        self.logged: list[str] = []

    def rank(self, request, deadline_s: float, is_active) -> Ranking:
        self.deadlines_s.append(deadline_s)
        return Ranking(np.arange(2 * len(request.item_ids), dtype=np.float32).reshape(-1, 2), "3.7", None)

    def log(self, request, ranking) -> None:
        self.logged.append(request.request_id)


class StaleReplica:
    def staleness_ms(self) -> int:
        return 42


class Call:
    """A gRPC call that has `remaining_s` seconds left, None without a deadline."""

    def __init__(self, remaining_s: float | None = None, *, is_active: bool = True) -> None:
        self._remaining_s, self._is_active = remaining_s, is_active

    def is_active(self) -> bool:
        return self._is_active

    def add_callback(self, callback) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return self._remaining_s


@pytest.fixture
def ranker() -> KeptRequests:
    return KeptRequests()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000)


@pytest.fixture
def service(ranker, clock) -> RankingService:
    return RankingService(ranker, StaleReplica(), ("click", "like"), ServingConfig(default_deadline_s=0.75), clock)


@pytest.mark.parametrize(("remaining_s", "expected_s"), [(None, 0.75), (9.2e18, 0.75), (3.0, 3.0), (3600.0, 30.0)])
def test_a_request_without_a_deadline_gets_the_default(service, ranker, clock, remaining_s, expected_s):
    service.Rank(ranking_pb2.RankRequest(item_ids=[1]), Call(remaining_s))
    assert ranker.deadlines_s == [pytest.approx(clock.monotonic_s() + expected_s)]


def test_an_answer_holds_scores_row_by_row_the_version_and_the_staleness(service):
    response = service.Rank(ranking_pb2.RankRequest(request_id="r", item_ids=[5, 6, 5]), Call(None))
    assert list(response.scores) == [0, 1, 2, 3, 4, 5] and list(response.task_names) == ["click", "like"]
    assert (response.request_id, response.model_version, response.staleness_ms) == ("r", "3.7", 42)


def test_a_request_without_an_id_gets_one_of_its_own(service):
    ids = {service.Rank(ranking_pb2.RankRequest(item_ids=[1]), Call(None)).request_id for _ in range(3)}
    assert len(ids) == 3 and "" not in ids


def test_a_call_that_has_ended_is_not_ranked(service, ranker):
    with pytest.raises(CancelledError):
        service.Rank(ranking_pb2.RankRequest(item_ids=[1]), Call(is_active=False))
    assert ranker.deadlines_s == []

"""The ranking service: the deadline of a request, and the fields of its answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError

import grpc
import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import CounterConfig, ServingConfig
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.observe.metrics import IMPRESSIONS_WITHHELD
from monolith_py.pb import ranking_pb2
from monolith_serving.features.order import RequestOrder
from monolith_serving.ranking.ranker import Ranking
from monolith_serving.service import RankingService


class KeptRequests:
    """A ranker that gives each candidate its place as score, and keeps the deadlines."""

    order = RequestOrder.of(Schema((), (), ("click", "like")), CounterConfig())
    feature_names = ()

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

    def event_staleness_ms(self) -> int:
        return 43


class Call:
    """A gRPC call that has `remaining_s` seconds left, None without a deadline; `client` is "cancelled" once it was cut off."""

    def __init__(self, remaining_s: float | None = None, *, is_active: bool = True) -> None:
        self._remaining_s, self._is_active = remaining_s, is_active
        self._state, self.client, self._code = self, "open", None
        self._callbacks: list[Callable[[], None]] = []

    def is_active(self) -> bool:
        return self._is_active

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return True

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def time_remaining(self) -> float | None:
        return self._remaining_s

    def end(self, client: str, code: grpc.StatusCode | None) -> None:
        """End the call as grpcio does: callbacks run after the answer was sent or the call was cut off."""
        self.client, self._code = client, code
        for callback in self._callbacks:
            callback()


@pytest.fixture
def ranker() -> KeptRequests:
    return KeptRequests()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000)


@pytest.fixture
def service(ranker, clock) -> RankingService:
    return RankingService(ranker, StaleReplica(), ("click", "like"), ServingConfig(default_deadline_s=0.75), clock, EventTimeRule(60_000))


@pytest.mark.parametrize(("remaining_s", "expected_s"), [(None, 0.75), (9.2e18, 0.75), (3.0, 3.0), (3600.0, 30.0)])
def test_a_request_without_a_deadline_gets_the_default(service, ranker, clock, remaining_s, expected_s):
    service.Rank(ranking_pb2.RankRequest(item_ids=[1]), Call(remaining_s))
    assert ranker.deadlines_s == [pytest.approx(clock.monotonic_s() + expected_s)]


def test_an_answer_holds_scores_row_by_row_the_version_and_the_staleness(service):
    response = service.Rank(ranking_pb2.RankRequest(request_id="r", item_ids=[5, 6, 5]), Call(None))
    assert list(response.scores) == [0, 1, 2, 3, 4, 5] and list(response.task_names) == ["click", "like"]
    assert (response.request_id, response.model_version, response.staleness_ms) == ("r", "3.7", 42)
    assert response.event_staleness_ms == 43 and not (response.candidates or response.feature_names or response.contributions)


@pytest.mark.parametrize(
    ("client", "code", "logged"),
    [
        ("open", None, ["r"]),
        ("open", grpc.StatusCode.OK, ["r"]),
        ("cancelled", None, []),
        ("open", grpc.StatusCode.DEADLINE_EXCEEDED, []),
    ],
)
def test_an_impression_is_logged_after_the_end_of_the_call_and_only_if_it_was_answered(service, ranker, client, code, logged):
    """80 of 101 cancelled requests were training data: serving.md, row 4."""
    call, before = Call(), IMPRESSIONS_WITHHELD.labels(reason="unanswered")._value.get()
    service.Rank(ranking_pb2.RankRequest(request_id="r", item_ids=[1]), call)
    assert ranker.logged == []
    call.end(client, code)
    assert ranker.logged == logged
    assert IMPRESSIONS_WITHHELD.labels(reason="unanswered")._value.get() - before == 1 - len(logged)


def test_a_request_that_wants_no_impression_gets_none(service, ranker):
    for wanted in (False, True):
        call = Call()
        service.Rank(ranking_pb2.RankRequest(request_id=f"{wanted}", item_ids=[1], log_impression=wanted), call)
        call.end("open", None)
    assert ranker.logged == ["True"]


def test_a_request_without_an_id_gets_one_of_its_own(service):
    ids = {service.Rank(ranking_pb2.RankRequest(item_ids=[1]), Call(None)).request_id for _ in range(3)}
    assert len(ids) == 3 and "" not in ids


def test_a_call_that_has_ended_is_not_ranked(service, ranker):
    with pytest.raises(CancelledError):
        service.Rank(ranking_pb2.RankRequest(item_ids=[1]), Call(is_active=False))
    assert ranker.deadlines_s == []

"""Requests for a full dense state: the trainer sees new ones, replicas ask at most once per interval, and both survive a log that fails."""

from __future__ import annotations

from monolith_py.clock import ManualClock
from monolith_py.errors import LogError
from monolith_py.pb import parameter_sync_pb2 as pb
from monolith_py.sync import DenseRequester, DenseRequests

TOPIC = "dense_requests"


def requests_in(log) -> list[pb.DenseRequest]:
    return [pb.DenseRequest.FromString(record.value) for record in log.read(TOPIC, 0, 0, 100)]


def test_a_request_is_taken_once(failing_log):
    clock = ManualClock(1000)
    requests, replicas = DenseRequests(failing_log, TOPIC), [DenseRequester(failing_log, TOPIC, "job", clock, 5.0) for _ in range(2)]
    assert [requests.take(), requests.take()] == [True, False]  # what came before the start is not known, so the first is taken for one
    for replica in replicas:
        replica.ask(3, 7, 0xABC)
    assert [requests.take(), requests.take()] == [True, False]
    assert [(one.job, one.generation, one.seq, one.fingerprint) for one in requests_in(failing_log)] == 2 * [("job", 3, 7, 0xABC)]


def test_a_replica_asks_once_in_its_interval_until_it_is_answered(failing_log):
    clock = ManualClock(1000)
    replica = DenseRequester(failing_log, TOPIC, "job", clock, 5.0)
    for seq in range(12):  # seconds 0, 5 and 10
        replica.ask(1, seq, 0)
        clock.advance(1.0)
    assert [one.seq for one in requests_in(failing_log)] == [0, 5, 10]
    replica.answered()
    replica.ask(1, 99, 0)
    assert requests_in(failing_log)[-1].seq == 99


def test_a_log_that_refuses_stops_no_replica_and_is_asked_once_per_interval(failing_log):
    clock = ManualClock(1000)
    replica = DenseRequester(failing_log, TOPIC, "job", clock, 5.0)
    failing_log.plans = [0.0]
    replica.ask(1, 0, 0)
    replica.ask(1, 1, 0)
    assert failing_log.plans == [] and requests_in(failing_log) == []
    clock.advance(5.0)
    replica.ask(1, 2, 0)
    assert [one.seq for one in requests_in(failing_log)] == [2]


def test_requests_are_seen_once_the_log_is_back(failing_log):
    requests, replica = DenseRequests(failing_log, TOPIC), DenseRequester(failing_log, TOPIC, "job", ManualClock(1000), 5.0)
    requests.take()
    replica.ask(1, 0, 0)
    end_offset = failing_log.end_offset

    def away(topic: str, partition: int = 0) -> int:
        raise LogError("away")

    failing_log.end_offset = away
    assert not requests.take()
    failing_log.end_offset = end_offset
    assert [requests.take(), requests.take()] == [True, False]


def test_without_the_topic_there_are_no_requests(failing_log):
    assert not DenseRequests(failing_log, "nobody").take()
    DenseRequester(failing_log, "nobody", "job", ManualClock(1000), 5.0).ask(1, 0, 0)

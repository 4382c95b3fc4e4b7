"""More requests than a replica can do: those that it takes come in time, the others are refused at once, and it recovers at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import grpc
import pytest
from surroundings import WAIT_S, Deployment, wait_until

from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc
from tests.fronts import needs_cpp_front

DEADLINE_S = 1.0
MEASURE_S, LOAD_S = 4.0, 8.0
OVERLOAD = 3.0


# Requests by the path that answers them: a thread of its own, those to be explained, or the thread that received them. Towers leave the
# client, on the same cores, little work beside them.
EXPLAINED = pb.RankRequest(user_id=1, item_ids=range(2000), top_k=1, explain=True, log_impression=False)
ALL = pb.RankRequest(user_id=1, item_ids=range(2000), log_impression=False)
PATHS = [
    pytest.param("python", EXPLAINED, [512, 256], id="explained"),
    pytest.param("cpp", EXPLAINED, [512, 256], id="explained-behind-cpp", marks=needs_cpp_front),
    pytest.param("cpp", ALL, [1024, 512, 256], id="core-behind-cpp", marks=needs_cpp_front),
]


def capacity(stub: ranking_pb2_grpc.RankingStub, request: pb.RankRequest) -> float:
    """Return the requests a second of as many clients as keep the replica busy."""
    counts: list[int] = []
    end_s = time.monotonic() + MEASURE_S

    def work() -> None:
        count = 0
        while time.monotonic() < end_s:
            stub.Rank(request, timeout=WAIT_S)
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / MEASURE_S


class Load:
    """Calls at an even rate, whatever becomes of them; counts their ends by status, and the seconds until each refusal."""

    def __init__(self, stub: ranking_pb2_grpc.RankingStub, request: pb.RankRequest) -> None:
        self._stub, self._request, self._left = stub, request, threading.Semaphore(0)
        self.codes: Counter[str] = Counter()
        self.refusals_s: list[float] = []

    def run(self, rate: float) -> int:
        """Send for LOAD_S, wait for all ends, and return the number of calls."""
        number = round(rate * LOAD_S)
        begin_s = time.monotonic()
        for index in range(number):
            time.sleep(max(0.0, begin_s + index / rate - time.monotonic()))
            sent_s = time.monotonic()
            call = self._stub.Rank.future(self._request, timeout=DEADLINE_S)
            call.add_done_callback(lambda call, sent_s=sent_s: self._note(call, sent_s))
        for _ in range(number):
            self._left.acquire()
        return number

    def _note(self, call: grpc.Future, sent_s: float) -> None:
        code = call.code().name
        self.codes[code] += 1
        if code == "RESOURCE_EXHAUSTED":
            self.refusals_s.append(time.monotonic() - sent_s)
        self._left.release()


@pytest.mark.long_drill
@pytest.mark.parametrize(("front", "message", "tower"), PATHS)
def test_at_three_times_its_capacity_a_replica_answers_what_it_can_and_refuses_the_rest(
    deploy: Callable[..., Deployment], front: str, message: pb.RankRequest, tower: list[int]
) -> None:
    drill = deploy(serving={"front": front}, model={"tower": tower})
    drill.run("train", "--stop-at-end")
    replica = drill.start("serve")
    wait_until(lambda: (drill.folder / "port").exists(), [replica])
    with grpc.insecure_channel(drill.address) as channel:
        stub = ranking_pb2_grpc.RankingStub(channel)
        stub.Rank(message, timeout=WAIT_S)
        rate = capacity(stub, message)
        load = Load(stub, message)
        number = load.run(OVERLOAD * rate)
        time.sleep(1.0)
        for _ in range(20):
            stub.Rank(message, timeout=DEADLINE_S)
        refusals_s = sorted(load.refusals_s)
        print(f"capacity {rate:.1f}/s, {number} calls in {LOAD_S} s: {dict(load.codes)}")
        print(f"refused after p50 {refusals_s[len(refusals_s) // 2]:.3f} s, p99 {refusals_s[int(len(refusals_s) * 0.99)]:.3f} s")
        assert load.codes.keys() <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
        assert load.codes["OK"] > 0.5 * rate * LOAD_S
        assert load.codes["DEADLINE_EXCEEDED"] < 0.05 * number
    replica.stop()
    assert "Traceback" not in replica.said()

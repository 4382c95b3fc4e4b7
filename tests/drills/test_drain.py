"""A replica that stops under load: no call is lost, neither of clients that know another replica nor of those on their way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from surroundings import WAIT_S, Deployment, now_ms, wait_until

from monolith_demo.driver.ports import free_ports
from monolith_py.errors import RankFailed
from monolith_py.io.codec import decode_impression
from monolith_serving.client import RankClient
from tests.fronts import FRONTS

NUM_CLIENTS = 8


class Clients:
    """Clients in threads that call both replicas in turn until `stop`; counts failures, keeps the ids of answered calls."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses, self.stop = addresses, threading.Event()
        self.failures: Counter[str] = Counter()
        self.answered: list[str] = []
        self._threads = [threading.Thread(target=self._work) for _ in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with RankClient(self._addresses) as client:
            while not self.stop.is_set():
                try:
                    result = client.rank(1, [1, 2, 3], time_ms=now_ms(), timeout_s=WAIT_S)
                except RankFailed as error:
                    self.failures[str(error)] += 1
                else:
                    self.answered.append(result.request_id)


@pytest.mark.long_drill
@pytest.mark.parametrize("front", FRONTS)
def test_no_call_is_lost_when_one_of_two_replicas_stops_and_returns(deploy: Callable[..., Deployment], front: str) -> None:
    drill = deploy(serving={"drain_s": 0.5, "front": front})
    drill.run("train", "--stop-at-end")
    first = drill.start("serve")
    wait_until(lambda: (drill.folder / "port").exists(), [first])
    (port,) = free_ports(1)
    other = drill.config.with_name("other.toml")
    text = drill.config.read_text().replace(f"port = {drill.job.serving.port}", f"port = {port}")
    other.write_text(text.replace(f"{drill.folder}/port", f"{drill.folder}/other-port"))
    second = drill.start("serve", config=other)
    wait_until(lambda: (drill.folder / "other-port").exists(), [second])

    clients = Clients([drill.address, f"127.0.0.1:{port}"])
    for _ in range(3):
        before = len(clients.answered)
        wait_until(lambda before=before: len(clients.answered) > before + 200)
        first.stop()
        stopped = len(clients.answered)
        wait_until(lambda stopped=stopped: len(clients.answered) > stopped + 200)
        (drill.folder / "port").unlink()
        first = drill.start("serve")
        wait_until(lambda: (drill.folder / "port").exists(), [first])
    clients.join()
    for replica in (first, second):
        replica.stop()
    print(f"{len(clients.answered)} calls answered over 3 stops, failures: {dict(clients.failures)}")
    assert not clients.failures
    logged = Counter(decode_impression(record.value).request_id for record in drill.records(drill.topics.impressions))
    assert set(clients.answered) <= logged.keys()

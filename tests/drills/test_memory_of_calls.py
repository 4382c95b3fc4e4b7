"""Memory of a replica that answers many calls at once: no thread keeps what one call needed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from surroundings import WAIT_S, Deployment, wait_until

from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc
from tests.fronts import FRONTS

LARGE = pb.RankRequest(user_id=1, item_ids=range(2000), log_impression=False)
CLIENTS, CALLS = 32, 20
# Threads with a torch each kept 270 MB more with 32 of them than with 4.
MOST_BYTES = 48 << 20


def resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096


@pytest.mark.long_drill
@pytest.mark.parametrize("front", FRONTS)
def test_many_clients_leave_no_more_memory_in_use_than_one(deploy: Callable[..., Deployment], front: str) -> None:
    drill = deploy(serving={"front": front})
    drill.run("train", "--stop-at-end")
    replica = drill.start("serve")
    wait_until(lambda: (drill.folder / "port").exists(), [replica])
    with grpc.insecure_channel(drill.address) as channel:
        stub = ranking_pb2_grpc.RankingStub(channel)

        def call(_: int) -> None:
            stub.Rank(LARGE, timeout=WAIT_S)

        for index in range(CLIENTS * CALLS):
            call(index)
        before = resident_bytes(replica.process.pid)
        with ThreadPoolExecutor(CLIENTS) as clients:
            assert len(list(clients.map(call, range(CLIENTS * CALLS)))) == CLIENTS * CALLS
        grown = resident_bytes(replica.process.pid) - before
        print(f"{front}: {before / 1e6:.0f} MB after one client, {grown / 1e6:+.1f} MB after {CLIENTS}")
        assert grown < MOST_BYTES
    replica.stop()

"""A shadow that is killed and started again: every answer of the main replica is as it is without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cuttable_proxy import ProxiedBroker
from labelled_examples import NUM_USERS, LabelledExamples
from surroundings import WAIT_S, Deployment, now_ms, wait_until

from monolith_py.clock import SystemClock
from monolith_py.io.codec import decode_impression
from monolith_serving.client import RankClient

ITEMS = list(range(20))
NUM_CALLS, NUM_KILLS = 200, 3


class Caller:
    """App of a frozen model: one score for each user and item, whenever it asks."""

    def __init__(self, client: RankClient) -> None:
        self._client, self._clock, self.num_calls = client, SystemClock(), 0
        self._scores: dict[int, np.ndarray] = {}

    def ask(self, num_calls: int) -> str:
        """Ask so many times; every answer must be that of before. Return the times of the calls, in words."""
        times_s = []
        for _ in range(num_calls):
            user, began_s = self.num_calls % NUM_USERS, self._clock.monotonic_s()
            scores = self._client.rank(user, ITEMS, timeout_s=WAIT_S, request_id=f"s{self.num_calls}").scores
            times_s.append(self._clock.monotonic_s() - began_s)
            np.testing.assert_array_equal(scores, self._scores.setdefault(user, scores))
            self.num_calls += 1
        return ", ".join(f"p{q} {1000 * np.percentile(times_s, q):.1f} ms" for q in (50, 99))


def write_wide(drill: Deployment) -> Path:
    """Write the job of a second model on the same log."""
    text = drill.config.read_text().replace("[log]", '[log]\nmodel_prefix = "wide."', 1).replace("tower = [8]", "tower = [16, 8]")
    path = drill.folder / "wide.toml"
    path.write_text(text.replace("/checkpoints", "/wide").replace("[serving]", '[serving]\narm = "wide"', 1))
    return path


@pytest.mark.long_drill
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.needs_kafka)])
def test_a_killed_shadow_costs_the_main_replica_no_answer(
    kind: str, deploy: Callable[..., Deployment], request: pytest.FixtureRequest
) -> None:
    log: dict[str, object] = {}
    if kind == "kafka":
        broker: ProxiedBroker = request.getfixturevalue("broker")
        log = {"url": broker.url, "topic_prefix": "shadowed."}
    drill = deploy(log=log, metrics_of="shadow", shadow={"max_lag_s": 60.0})
    wide = write_wide(drill)
    LabelledExamples(drill).append(20)
    drill.start("topics", config=wide).must_end_well()
    for config in (drill.config, wide):
        drill.start("train", "--stop-at-end", config=config).must_end_well()
    replica = drill.start("serve")
    with RankClient(drill.address) as client:
        client.rank_when_ready(0, ITEMS, wait_s=WAIT_S, timeout_s=WAIT_S, log_impression=False)
        caller = Caller(client)
        caller.ask(NUM_USERS)
        print(f"without a shadow: {caller.ask(NUM_CALLS)}")
        for _ in range(NUM_KILLS):
            shadow = drill.start("shadow", config=wide)

            def scores() -> bool:
                caller.ask(1)
                return drill.metric("monolith_shadow_scored_total") > 0

            wait_until(scores, [replica, shadow], look_s=0.1)
            print(f"with a shadow: {caller.ask(NUM_CALLS)}")
            shadow.kill()
            print(f"after its kill: {caller.ask(NUM_CALLS)}")
    replica.stop()
    served = {decode_impression(record.value).request_id for record in drill.records(drill.topics.impressions)}
    assert served == {f"s{number}" for number in range(caller.num_calls)}, "every call is an impression"
    check_scores(drill, served)


def check_scores(drill: Deployment, served: set[str]) -> None:
    """Check that the shadows scored requests that were served, each at most once, and most of those while they lived."""
    topic = f"{drill.job.log.topic_prefix}wide.shadow_scores"
    scored = [decode_impression(record.value) for record in drill.records(topic)]
    ids = [one.request_id for one in scored]
    assert len(ids) == len(set(ids)) and set(ids) <= served
    assert {one.arm for one in scored} == {"wide"}
    print(f"{len(served)} requests served, {len(ids)} scored by {NUM_KILLS} shadows, each of which was killed")
    assert len(ids) >= NUM_KILLS
    assert all(np.isfinite(one.scores).all() and one.time_ms <= now_ms() for one in scored)

"""Shadow: a second model scores what was served, on the features that were served, and only while it cannot know the labels."""

from __future__ import annotations

import numpy as np
import pytest

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression
from monolith_py.io.codec import decode_impression, encode_impression
from monolith_py.model.batch import make_batch
from monolith_py.observe.metrics import SHADOW_DROPPED
from monolith_serving.shadow.shadow import Shadow
from monolith_serving.shadow.share import is_chosen

START_MS = 1_700_000_000_000
ONES = np.ones(1, np.int32)


def served(request_id: str, user: int, items: list[int]) -> Impression:
    """An impression of a live replica; tags of the k-th candidate: k fids."""
    num = len(items)
    lengths = np.arange(num, dtype=np.int32)
    shared = FeatureColumns(1, {"user_id": SparseColumn(np.array([user]), ONES)}, {"age": np.array([[0.5]], np.float32)})
    candidates = FeatureColumns(
        num,
        {
            "item_id": SparseColumn(np.array(items), np.ones(num, np.int32)),
            "tags": SparseColumn(np.arange(lengths.sum()) - 7, lengths),
            "unknown": SparseColumn(np.arange(num), np.ones(num, np.int32)),
        },
    )
    return Impression(
        request_id,
        START_MS,
        user,
        np.array(items),
        shared,
        candidates,
        np.full((num, 2), 0.5, np.float32),
        ("click", "like"),
        "1.1",
        "live",
    )


def features_of(impression: Impression) -> FeatureColumns:
    """The features of each candidate, built without the code under test."""
    num = len(impression.item_ids)
    user = impression.shared.sparse["user_id"]
    sparse = {"user_id": SparseColumn(np.repeat(user.fids, num), np.ones(num, np.int32)), **impression.candidates.sparse}
    return FeatureColumns(num, sparse, {"age": np.repeat(impression.shared.dense["age"], num, axis=0)})


@pytest.fixture
def shadowing(make_trainer, make_replica, make_log, clock):
    """A trained model, its replica and a shadow of them; `shadow.step` never waits."""

    class Shadowing:
        def __init__(self) -> None:
            self.trainer = make_trainer()
            self.trainer.step(4)
            self.trainer.checkpoint()
            self.replica = make_replica(self.trainer)
            self.log = make_log()
            self.job = self.with_shadow()
            self.shadow = Shadow(self.job, self.log, self.replica, clock)

        def with_shadow(self, **settings: object) -> JobConfig:
            document = self.trainer.job.model_dump()
            return JobConfig.model_validate(
                document | {"serving": {**document["serving"], "arm": "wide"}, "shadow": {**document["shadow"], **settings}}
            )

        def serve(self, *impressions: Impression) -> None:
            self.log.append("impressions", [encode_impression(one) for one in impressions], time_ms=START_MS)

        def scored(self) -> dict[str, Impression]:
            records = self.log.read("shadow_scores", 0, 0, 1000)
            return {one.request_id: one for one in (decode_impression(record.value) for record in records)}

    return Shadowing()


def dropped(reason: str) -> float:
    return float(SHADOW_DROPPED.labels(reason=reason)._value.get())


def test_a_shadow_scores_each_served_request_as_the_second_model_would_have(shadowing) -> None:
    requests = [served("a", 5, [3]), served("b", 7, [1, 2, 200, 9]), served("c", 1, [4, 250])]
    shadowing.serve(*requests)
    assert shadowing.shadow.step(0.0) == 3
    scored = shadowing.scored()
    assert list(scored) == ["a", "b", "c"]
    for request in requests:
        expected = shadowing.replica.state.predict(make_batch(features_of(request), shadowing.trainer.schema))
        one = scored[request.request_id]
        np.testing.assert_allclose(one.scores, expected, rtol=0, atol=1e-6)
        assert (one.arm, one.model_version, one.task_names) == ("wide", shadowing.replica.state.version, ("click", "like"))
        assert one.item_ids.tolist() == request.item_ids.tolist() and not one.shared.sparse and not one.candidates.sparse


def test_requests_served_before_its_start_are_left_out(shadowing, clock) -> None:
    shadowing.serve(served("before", 5, [3]))
    later = Shadow(shadowing.job, shadowing.log, shadowing.replica, clock)
    shadowing.serve(served("after", 5, [3]))
    later.step(0.0)
    assert list(shadowing.scored()) == ["after"]


def test_requests_whose_labels_the_model_may_know_are_dropped_and_counted(shadowing, clock) -> None:
    before = dropped("late")
    shadowing.serve(*(served(f"old{number}", 5, [3]) for number in range(300)))
    clock.advance(1.5)  # the process stood still
    assert shadowing.shadow.step(0.0) == 0
    assert dropped("late") - before == 300
    shadowing.serve(served("young", 5, [3]))
    assert shadowing.shadow.step(0.0) == 1
    assert list(shadowing.scored()) == ["young"]


def test_a_share_of_the_requests_is_stable_and_of_its_size(shadowing, clock) -> None:
    shadow = Shadow(shadowing.with_shadow(share=0.25), shadowing.log, shadowing.replica, clock)
    names = [f"r{number}" for number in range(400)]
    shadowing.serve(*(served(name, 5, [3]) for name in names))
    while shadow.step(0.0):
        pass
    chosen = [name for name in names if is_chosen(name, 0.25, "wide")]
    assert list(shadowing.scored()) == chosen
    assert 70 < len(chosen) < 130


def test_a_broken_impression_costs_no_other_its_scores(shadowing) -> None:
    before = dropped("broken")
    shadowing.log.append("impressions", [b"\xff\xff"], time_ms=START_MS)
    shadowing.serve(served("a", 5, [3]))
    assert shadowing.shadow.step(0.0) == 1
    assert list(shadowing.scored()) == ["a"] and dropped("broken") - before == 1


def test_two_experiments_choose_their_users_independently() -> None:
    users = [str(user) for user in range(20_000)]
    first, second = ({user for user in users if is_chosen(user, 0.5, salt)} for salt in ("exp-1", "exp-2"))
    for share in (len(first), len(second), 2 * len(first & second)):
        assert abs(share - 10_000) < 500

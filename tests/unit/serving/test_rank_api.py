"""Choices of a request about its answer, by the client over a genuine gRPC server: candidates, tasks, features, versions, explanations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import EventTimeRule, Impression
from monolith_py.data.schema import Schema
from monolith_py.errors import RankFailed
from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_impression, encode_features
from monolith_py.model import build_model
from monolith_py.model.batch import make_batch
from monolith_py.sync import DenseState, RowEncoding, pack_rows
from monolith_serving.client import RankClient
from monolith_serving.core_service import CoreService
from monolith_serving.features.store import FeatureStore
from monolith_serving.process import make_server
from monolith_serving.ranking.core_ranker import CoreRanker
from monolith_serving.ranking.impression_encoder import ImpressionEncoder
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.table import ReplicaTable
from monolith_serving.service import RankingService

ITEMS = [3, 19, 3, 7, 500]
HOUR = {"hour": [0.25]}
# Source and values of each feature: the candidates' own ones differ from place to place.
POSITIONS = {"position": [[0], [1], [2], [3, 4], []]}
PRICES = {"price": [0.5, 1.5, -0.5, 2.0, 0.0]}
FEATURES = ("user_id", "item_id", "tags", "tab", "position", "hour", "price", "counter_position")


class StillReplica:
    """A replica that never changes: random rows for fids 0..99 of every feature."""

    def __init__(self, job: JobConfig) -> None:
        schema, generator = Schema.of(job), np.random.default_rng(3)
        table = ReplicaTable(schema.features, RowEncoding.FP32, torch.device("cpu"))
        for name in schema.sparse_names:
            weights = generator.normal(size=(100, 8)).astype(np.float32)
            table.assign(name, np.arange(100), pack_rows(weights, RowEncoding.FP32), RowEncoding.FP32)
        model = build_model(schema, job.model, 0).eval()
        dense = DenseState.of(model.state_dict())
        self.state = ModelState(table, DenseModel(schema, job.model, dense), dense, (4, 2), 0)

    def require_ready(self) -> None:
        pass

    def staleness_ms(self) -> int:
        return 700

    def event_staleness_ms(self) -> int:
        return 900


class KeptImpressions:
    def __init__(self, job: JobConfig) -> None:
        self._encode = ImpressionEncoder(job)
        self.kept: dict[str, Impression] = {}

    def put(self, served, num_bytes) -> None:
        (value,) = self._encode([served])
        assert len(value) <= num_bytes + 1024
        impression = decode_impression(value)
        self.kept[impression.request_id] = impression


@pytest.fixture(scope="module")
def job() -> JobConfig:
    sources = {"user_id": "user_id", "item_id": "item_id", "tags": "item", "tab": "context", "position": "candidate"}
    return parse_job(
        {
            "name": "api",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": name, "source": source, "dim": 8} for name, source in sources.items()],
            "dense_features": [{"name": "hour", "source": "context"}, {"name": "price", "source": "candidate"}],
            "tasks": [{"name": "click", "action": "click"}, {"name": "like", "action": "like"}],
            "counters": {"enabled": True, "keys": ["position"]},
            "model": {"tower": [16], "precision": "fp32"},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )


class Door:
    """The service on a port, and a client of it."""

    def __init__(self, job: JobConfig, path: str = "core") -> None:
        self.path = path
        kv, clock, schema = MemoryKv(), SystemClock(), Schema.of(job)
        for item in range(20):
            tags = SparseColumn(np.arange(item % 4), np.array([item % 4], np.int32))
            kv.write({f"item:{item}": encode_features(FeatureColumns(1, {"tags": tags}))})
        self.job, self.impressions, self.replica = job, KeptImpressions(job), StillReplica(job)
        self.store = FeatureStore(kv, schema, LiveCounters.of(job), job.serving, clock)
        ranker = Ranker(job, self.replica, self.store, self.impressions, clock)
        service = RankingService(ranker, self.replica, schema.tasks, job.serving, clock, EventTimeRule.of(job.log))
        core = CoreService(CoreRanker(job, self.replica, self.store, self.impressions, clock), job.serving, clock)
        self.server = make_server(service, job.serving, clock, core if path == "core" else None)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.client = RankClient(f"127.0.0.1:{port}")

    def rank(self, **options):
        given = {"context": {"tab": [7]}, "dense_context": HOUR, "candidate_features": POSITIONS, "dense_candidate_features": PRICES}
        return self.client.rank(1, ITEMS, **(given | {"timeout_s": 60.0} | options))

    def impression(self, request_id: str) -> Impression:
        """Return an impression; it is logged after the answer was sent."""
        while request_id not in self.impressions.kept:
            SystemClock().sleep(0.005)
        return self.impressions.kept[request_id]

    def close(self) -> None:
        self.client.close()
        self.server.stop(None).wait()
        self.store.close()


@pytest.fixture(scope="module", params=["core", "python"])
def door(job, request) -> Iterator[Door]:
    door = Door(job, request.param)
    yield door
    door.close()


def rescored(door: Door, impression: Impression) -> np.ndarray:
    """Return the probabilities of the logged features, joined as the joiner joins them into examples."""
    shared, rows = impression.shared.repeat(len(impression.item_ids)), impression.candidates
    together = FeatureColumns(rows.num_rows, {**shared.sparse, **rows.sparse}, {**shared.dense, **rows.dense})
    return door.replica.state.predict(make_batch(together, Schema.of(door.job)))


def refusal(door: Door, **options) -> tuple[str, str]:
    with pytest.raises(RankFailed) as caught:
        door.rank(**options)
    return caught.value.code, caught.value.details


def test_the_core_answers_all_but_explanations(door, monkeypatch):
    if door.path == "core":
        monkeypatch.delattr(Ranker, "rank")
    assert door.rank(top_k=2, rank_by="like", task_names=["like"], model_version="4", max_staleness_ms=701).scores.shape == (2, 1)


def test_without_choices_all_candidates_and_tasks_come_in_request_order(door):
    result = door.rank()
    assert result.scores.shape == (5, 2) and result.task_names == ("click", "like") and result.candidates is None
    assert (result.model_version, result.staleness_ms, result.event_staleness_ms) == ("4.2", 700, 900)
    assert result.feature_names == () and result.contributions is None


@pytest.mark.parametrize(("rank_by", "task"), [("", 0), ("click", 0), ("like", 1)])
def test_the_best_candidates_come_best_first_with_their_positions(door, rank_by, task):
    everything = door.rank().scores
    order = np.argsort(-everything[:, task], kind="stable")
    for top_k in (1, 3, 5, 100):
        result = door.rank(top_k=top_k, rank_by=rank_by)
        assert result.candidates.tolist() == order[:top_k].tolist()
        np.testing.assert_allclose(result.scores, everything[order[:top_k]], rtol=1e-5)


def test_the_impression_holds_the_returned_candidates_alone_with_their_features(door):
    """The app shows no other: they would be learnt as negatives."""
    result = door.rank(top_k=3, rank_by="like", request_id="best")
    impression = door.impression("best")
    assert impression.item_ids.tolist() == [ITEMS[position] for position in result.candidates]
    assert impression.candidates.num_rows == 3 and impression.task_names == ("click", "like")
    np.testing.assert_array_equal(impression.scores, result.scores)
    np.testing.assert_allclose(rescored(door, impression), result.scores, rtol=1e-5)


def test_the_tasks_of_the_answer_come_in_the_order_asked_for(door):
    everything = door.rank().scores
    for names, columns in ((["like"], [1]), (["like", "click"], [1, 0]), (["click"], [0])):
        result = door.rank(task_names=names, request_id=f"tasks-{len(names)}-{names[0]}")
        assert result.task_names == tuple(names)
        np.testing.assert_allclose(result.scores, everything[:, columns], rtol=1e-5)
        impression = door.impression(result.request_id)
        np.testing.assert_allclose(impression.scores, everything, rtol=1e-5)  # of all tasks
    assert door.rank(task_names=["like"], top_k=1).candidates.tolist() == [int(np.argmax(everything[:, 1]))]


def test_features_of_each_candidate_score_it_and_are_logged(door):
    with_features, without = door.rank(request_id="own"), door.rank(candidate_features={}, dense_candidate_features={}, request_id="none")
    assert (with_features.scores[0] != without.scores[0]).all() and (with_features.scores[0] != with_features.scores[2]).all()
    np.testing.assert_allclose(without.scores[0], without.scores[2], rtol=1e-6)  # the same item twice
    impression = door.impression("own")
    assert impression.candidates.sparse["position"].fids.tolist() == [0, 1, 2, 3, 4]
    assert impression.candidates.sparse["position"].lengths.tolist() == [1, 1, 1, 2, 0]
    np.testing.assert_array_equal(impression.candidates.dense["price"].ravel(), np.array(PRICES["price"], np.float32))
    np.testing.assert_allclose(rescored(door, impression), with_features.scores, rtol=1e-5)
    absent = door.impression("none")
    assert absent.candidates.sparse["position"].lengths.tolist() == [0] * 5
    np.testing.assert_allclose(rescored(door, absent), without.scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"candidate_features": {"tags": [[1]] * 5}},
            r"candidate_features must hold features among \['position', 'price'\], got \['tags'\]",
        ),
        ({"candidate_features": {"position": [[1]] * 4}}, "candidate_features.position.lengths must have 5 rows, got 4"),
        (
            {"candidate_features": {"position": [[1]] * 4 + [[2] * 4097]}},
            "candidate_features.position.fids must have at most 4096 fids a row",
        ),
        ({"dense_candidate_features": {"price": np.zeros((5, 2))}}, "candidate_features.price.values must have 1 values a row, got 2"),
        ({"dense_candidate_features": {"price": [np.inf] * 5}}, "candidate_features.price.values must be finite, got inf"),
        ({"task_names": ["click", "click"]}, "task_names must be unique tasks among"),
        ({"task_names": ["buy"]}, r"task_names must be unique tasks among \['click', 'like'\], got \['buy'\]"),
        ({"rank_by": "buy", "top_k": 1}, r"rank_by must be one of \['click', 'like'\] and come with top_k, got 'buy' with top_k 1"),
        ({"rank_by": "click"}, "rank_by must be one of .* got 'click' with top_k 0"),
        ({"model_version": "latest"}, "model_version must be 'generation' or 'generation.seq', got 'latest'"),
        ({"max_staleness_ms": -1}, "max_staleness_ms must be >= 0, got -1"),
    ],
)
def test_a_choice_that_no_model_can_grant_is_named(door, options, rule):
    code, details = refusal(door, **options)
    assert code == "INVALID_ARGUMENT" and re.search(rule, details)


def test_a_version_is_served_or_refused_with_the_one_that_is(door):
    for version in ("", "4", "4.2"):
        assert door.rank(model_version=version).model_version == "4.2"
    for version in ("3", "4.1", "4.20", "42"):
        code, details = refusal(door, model_version=version)
        assert (code, details) == ("FAILED_PRECONDITION", f"model_version must be the one served, 4.2, got '{version}'")


def test_a_model_that_is_too_old_refuses(door):
    assert door.rank(max_staleness_ms=700).staleness_ms == 700
    code, details = refusal(door, max_staleness_ms=699)
    assert code == "FAILED_PRECONDITION" and details.endswith("must be at least the staleness of the replica, 700 ms, got 699")


def test_contributions_are_differences_of_scores_without_the_feature(door):
    result = door.rank(explain=True, request_id="explained", log_impression=True)
    impression = door.impression("explained")
    assert result.feature_names == FEATURES and result.contributions.shape == (5, 2, len(FEATURES))
    for place, name in enumerate(FEATURES):
        parts = [
            replace(
                part,
                sparse={key: one for key, one in part.sparse.items() if key != name},
                dense={key: one for key, one in part.dense.items() if key != name},
            )
            for part in (impression.shared, impression.candidates)
        ]
        expected = result.scores - rescored(door, replace(impression, shared=parts[0], candidates=parts[1]))
        np.testing.assert_allclose(result.contributions[:, :, place], expected, atol=1e-6)
    assert (np.abs(result.contributions).max(axis=(0, 1)) > 1e-4).all()  # each feature counts


def test_an_explanation_is_of_the_answer_alone_and_no_training_data(door):
    everything = door.rank(explain=True)
    result = door.rank(explain=True, top_k=2, rank_by="like", task_names=["like"], request_id="quiet")
    assert result.contributions.shape == (2, 1, len(FEATURES))
    np.testing.assert_allclose(result.contributions[:, 0], everything.contributions[result.candidates, 1], atol=1e-6)
    door.rank(request_id="after")
    door.impression("after")
    assert "quiet" not in door.impressions.kept


@pytest.mark.parametrize("door", ["python"], indirect=True)  # the core explains too fast to be late here: see test_core_answers.py
def test_an_explanation_stops_at_its_deadline_and_within_the_work_limit(door):
    for _ in range(16):
        door.client.rank(1, ITEMS, timeout_s=60.0, log_impression=False)
    code, _ = refusal(door, explain=True, timeout_s=1e-4)
    assert code in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


def test_arrays_go_in_as_lists_do(door):
    arrays = {
        "context": {"tab": np.array([7], np.int32)},
        "dense_context": {"hour": np.array([0.25], np.float32)},
        "candidate_features": {"position": [np.array(row, np.int64) for row in POSITIONS["position"]]},
        "dense_candidate_features": {"price": np.array(PRICES["price"])},
    }
    result = door.client.rank(1, np.array(ITEMS, np.uint16), timeout_s=60.0, **arrays)
    np.testing.assert_allclose(result.scores, door.rank().scores, rtol=1e-6)

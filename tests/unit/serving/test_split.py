"""Split: each user has one arm, scored by its own model on its own features, and logged with all features of the first."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, SplitConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import EventTimeRule, Impression
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_impression, encode_features
from monolith_py.model import build_model
from monolith_py.model.batch import make_batch
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.sync import DenseState, RowEncoding, pack_rows
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.impression_encoder import ImpressionEncoder
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.table import ReplicaTable
from monolith_serving.service import RankingService
from monolith_serving.shadow.share import is_chosen
from monolith_serving.shadow.split import SplitService, arm_of, second_job

ITEMS = [3, 19, 7]
SHARE = 0.3


def make_job(**changes: Any) -> JobConfig:
    features = {"tags": "item", "user_id": "user_id", "item_id": "item_id"}
    return parse_job(
        {
            "name": "split",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": name, "source": source, "dim": 8} for name, source in features.items()],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [16], "precision": "fp32"},
            "trainer": {"checkpoint_dir": "unused"},
        }
        | changes
    )


FIRST = make_job()
# Without the tags, and in another order.
SECOND = make_job(
    log={"url": "sqlite:///unused", "model_prefix": "wide."},
    features=[{"name": name, "source": name, "dim": 4} for name in ("item_id", "user_id")],
    serving={"arm": "wide"},
)


class StillReplica:
    """Random rows for fids 0..99."""

    def __init__(self, job: JobConfig, seed: int) -> None:
        schema, generator = Schema.of(job), np.random.default_rng(seed)
        table = ReplicaTable(schema.features, RowEncoding.FP32, torch.device("cpu"))
        for feature in schema.features:
            weights = generator.normal(size=(100, feature.dim)).astype(np.float32)
            table.assign(feature.name, np.arange(100), pack_rows(weights, RowEncoding.FP32), RowEncoding.FP32)
        model = build_model(schema, job.model, seed).eval()
        dense = DenseState.of(model.state_dict())
        self.state, self.is_ready = ModelState(table, DenseModel(schema, job.model, dense), dense, (seed, 2), 0), True

    def require_ready(self) -> None:
        assert self.is_ready

    def staleness_ms(self) -> int:
        return 0

    def event_staleness_ms(self) -> int:
        return 0


class KeptImpressions:
    def __init__(self, job: JobConfig) -> None:
        self._encode, self.kept = ImpressionEncoder(job), Future()  # type: Any

    def put(self, served: Any, num_bytes: int) -> None:
        (value,) = self._encode([served])
        self.kept.set_result(decode_impression(value))


class Call:
    """A call that is answered at once."""

    class _State:
        client = "open"

    _state = _State()

    def is_active(self) -> bool:
        return True

    def time_remaining(self) -> float:
        return 20.0

    def code(self) -> None:
        return None

    def add_callback(self, callback: Any) -> bool:
        callback()
        return True


class World:
    def __init__(self) -> None:
        kv, clock = MemoryKv(), SystemClock()
        for item in ITEMS:
            tags = SparseColumn(np.arange(item % 4), np.array([item % 4], np.int32))
            kv.write({f"item:{item}": encode_features(FeatureColumns(1, {"tags": tags}))})
        self.store = FeatureStore(kv, Schema.of(FIRST), LiveCounters.of(FIRST), FIRST.serving, clock)
        self.replicas = {"live": StillReplica(FIRST, 1), "wide": StillReplica(SECOND, 2)}
        arm = arm_of(FIRST, SECOND)
        self.impressions = {"live": KeptImpressions(FIRST), "wide": KeptImpressions(arm)}
        rankers = (
            Ranker(FIRST, self.replicas["live"], self.store, self.impressions["live"], clock),
            Ranker(arm, self.replicas["wide"], self.store, self.impressions["wide"], clock, Schema.of(SECOND)),
        )
        first, second = (
            RankingService(ranker, replica, ("click",), FIRST.serving, clock, EventTimeRule.of(FIRST.log))
            for ranker, replica in zip(rankers, self.replicas.values(), strict=True)
        )
        self.service = SplitService(SplitConfig(job="wide.toml", share=SHARE), first, second, self.replicas["wide"])

    def rank(self, user: int) -> tuple[pb.RankResponse, str]:
        """Return the answer and the arm."""
        for one in self.impressions.values():
            one.kept = Future()
        response = self.service.Rank(pb.RankRequest(user_id=user, item_ids=ITEMS), Call())
        return response, next(arm for arm, one in self.impressions.items() if one.kept.done())

    def impression(self, arm: str) -> Impression:
        found: Impression = self.impressions[arm].kept.result()
        return found


@pytest.fixture
def world():
    world = World()
    yield world
    world.store.close()


def test_each_user_has_one_arm_of_its_own_model(world: World) -> None:
    arms = {}
    for user in range(60):
        response, arm = world.rank(user)
        assert world.rank(user)[1] == arm
        assert arm == ("wide" if is_chosen(str(user), SHARE, "split") else "live")
        assert response.model_version == world.replicas[arm].state.version
        arms[user] = arm
    assert 8 <= list(arms.values()).count("wide") <= 30


def test_an_impression_of_the_second_arm_has_its_name_its_scores_and_all_features_of_the_first(world: World) -> None:
    user = next(user for user in range(99) if is_chosen(str(user), SHARE, "split"))
    response, arm = world.rank(user)
    impression = world.impression(arm)
    assert (arm, impression.arm) == ("wide", "wide")
    assert set(impression.candidates.sparse) | set(impression.shared.sparse) == {"tags", "user_id", "item_id"}
    np.testing.assert_allclose(impression.scores[:, 0], response.scores, atol=1e-7)
    ones = np.ones(3, np.int32)
    columns = FeatureColumns(3, {"user_id": SparseColumn(np.full(3, user), ones), "item_id": SparseColumn(np.array(ITEMS), ones)})
    expected = world.replicas["wide"].state.predict(make_batch(columns, Schema.of(SECOND)))
    np.testing.assert_allclose(impression.scores, expected, atol=1e-6)


def test_the_first_arm_answers_until_the_second_model_is_loaded(world: World) -> None:
    world.replicas["wide"].is_ready = False
    assert {world.rank(user)[1] for user in range(30)} == {"live"}
    world.replicas["wide"].is_ready = True
    assert {world.rank(user)[1] for user in range(30)} == {"live", "wide"}


def test_a_larger_share_keeps_the_users_of_a_smaller_one() -> None:
    chosen = [{user for user in range(1000) if is_chosen(str(user), share, "split")} for share in (0.1, 0.3)]
    assert chosen[0] < chosen[1]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ("[log]\nurl = 'sqlite:///other'\nmodel_prefix = 'wide.'\n[serving]\narm = 'wide'", "have the same log"),
        ("[log]\nurl = 'sqlite:///unused'\n[serving]\narm = 'wide'", "have a log.model_prefix of its own"),
        ("[log]\nurl = 'sqlite:///unused'\nmodel_prefix = 'wide.'\n[serving]\narm = 'wide'", "have no features but"),
    ],
)
def test_a_second_job_that_does_not_fit_is_refused(tmp_path: Path, changes: str, rule: str) -> None:
    path = tmp_path / "wide.toml"
    head = "name = 'wide'\nfeatures = [{ name = 'new', source = 'item', dim = 8 }]\ntasks = [{ name = 'click', action = 'click' }]\n"
    path.write_text(f"{head}kv = {{ url = 'memory:' }}\ntrainer = {{ checkpoint_dir = 'unused' }}\n{changes}\n")
    with pytest.raises(ConfigError, match=f"must {rule}"):
        second_job(make_job(serving={"split": {"job": str(path), "share": 0.1}}))


def test_a_split_needs_a_job_and_a_share() -> None:
    for split in ({"share": 0.1}, {"job": "wide.toml"}):
        with pytest.raises(ConfigError, match=r"serving.split.job must come with a split.share above 0"):
            make_job(serving={"split": split})

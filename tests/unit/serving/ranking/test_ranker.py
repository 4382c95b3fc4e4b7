"""The ranker: impressions hold the scored features and the served scores, for any mix of requests in a batch.

Longer than 300 lines: one small model and store serve all tests of the ranker.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
import torch

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import Impression
from monolith_py.data.packed_rows import PackedRow
from monolith_py.data.schema import Schema
from monolith_py.errors import KvError, ModelNotFinite, NotReady, Overloaded
from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_impression, encode_features
from monolith_py.model import build_model
from monolith_py.model.batch import make_batch
from monolith_py.observe.metrics import FEATURES_UNREAD
from monolith_py.sync import DenseState, RowEncoding, pack_rows
from monolith_serving.features import request_features
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.impression_encoder import ImpressionEncoder
from monolith_serving.ranking.ranker import Ranker, Ranking
from monolith_serving.ranking.request import RankInput
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.table import ReplicaTable

FAR_S = SystemClock().monotonic_s() + 1e6
START_MS = 1_700_000_000_000


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
        self._state = ModelState(table, DenseModel(schema, job.model, dense), dense, (4, 2), 0)

    def require_ready(self) -> None:
        pass

    @property
    def state(self) -> ModelState:
        return self._state


class GatedReplica(StillReplica):
    """Holds the first batch until the gate opens, and keeps the sizes of all batches."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__(job)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.batch_sizes: list[int] = []
        self.version = self._state.version

    @property
    def state(self):
        return self

    def predict(self, batch, shared=None) -> np.ndarray:
        self.batch_sizes.append(batch.num_rows)
        self.entered.set()
        self.gate.wait()
        return self._state.predict(batch, shared)


class KeptImpressions:
    def __init__(self, job: JobConfig) -> None:
        self._encode = ImpressionEncoder(job)
        self.kept: list[Impression] = []

    def put(self, served, num_bytes) -> None:
        (value,) = self._encode([served])
        assert len(value) <= num_bytes + 1024
        self.kept.append(decode_impression(value))


@pytest.fixture
def job() -> JobConfig:
    feature = {"dim": 8}
    return parse_job(
        {
            "name": "ranker",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [
                {"name": "tags", "source": "item", "pooling": "mean"} | feature,
                {"name": "user_id", "source": "user_id"} | feature,
                {"name": "tab", "source": "context"} | feature,
                {"name": "item_id", "source": "item_id"} | feature,
                {"name": "city", "source": "user"} | feature,
            ],
            "dense_features": [
                {"name": "hour", "source": "context", "dim": 2},
                {"name": "price", "source": "item"},
                {"name": "age", "source": "user"},
            ],
            "tasks": [{"name": "click", "action": "click"}, {"name": "like", "action": "like"}],
            "counters": {"enabled": True, "keys": ["item_id", "city", "tags"]},
            "model": {"tower": [16], "precision": "fp32"},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )


def column(*fids: int) -> SparseColumn:
    return SparseColumn(np.array(fids, np.int64), np.array([len(fids)], np.int32))


@pytest.fixture
def kv(job) -> MemoryKv:
    kv, counters = MemoryKv(), LiveCounters.of(job)

    def count(key: str, fid: int, num_examples: int, clicks: int, likes: int) -> None:
        kv.write({counters.key(key, fid): counters.encode(np.array([[num_examples, clicks], [num_examples, likes]]))})

    for user in range(5):
        age = np.array([[user / 10]], np.float32)
        kv.write({f"user:{user}": encode_features(FeatureColumns(1, {"city": column(user % 2)}, {"age": age}))})
    for item in range(20):
        price = np.array([[item / 5]], np.float32)
        kv.write({f"item:{item}": encode_features(FeatureColumns(1, {"tags": column(*range(item % 4))}, {"price": price}))})
        count("item_id", item, 10 * item, item, 0)
    count("tags", 1, 50, 25, 5)
    count("city", 1, 90, 9, 0)
    return kv


@pytest.fixture
def impressions(job) -> KeptImpressions:
    return KeptImpressions(job)


@pytest.fixture
def ranker(job, kv, impressions) -> Ranker:
    clock = SystemClock()
    return Ranker(job, StillReplica(job), FeatureStore(kv, Schema.of(job), LiveCounters.of(job), job.serving, clock), impressions, clock)


def request(user_id: int, item_ids: list[int], tab: int = 7) -> RankInput:
    context = PackedRow(np.array([tab], np.int64), np.array([1], np.int32), np.array([0.5, tab], np.float32))
    return RankInput(f"{user_id}-{tab}", START_MS + tab, user_id, np.array(item_ids, np.int64), context)


def rank_and_log(ranker: Ranker, one: RankInput) -> Ranking:
    ranking = ranker.rank(one, FAR_S)
    ranker.log(one, ranking)
    return ranking


def rescored(job: JobConfig, ranker: Ranker, impression: Impression) -> np.ndarray:
    """Return the probabilities of the logged features, joined as the joiner joins them into examples."""
    shared = impression.shared.repeat(len(impression.item_ids))
    rows = impression.candidates
    together = FeatureColumns(rows.num_rows, {**shared.sparse, **rows.sparse}, {**shared.dense, **rows.dense})
    return ranker._replica.state.predict(make_batch(together, Schema.of(job)))


def test_scoring_the_logged_impression_again_gives_the_served_scores(job, ranker, impressions):
    ranking = rank_and_log(ranker, request(1, [3, 19, 3, 500]))
    (impression,) = impressions.kept
    assert ranking.model_version == impression.model_version == "4.2"
    assert (impression.request_id, impression.time_ms, impression.user_id) == ("1-7", START_MS + 7, 1)
    assert impression.item_ids.tolist() == [3, 19, 3, 500] and impression.task_names == ("click", "like")
    np.testing.assert_array_equal(impression.scores, ranking.scores)
    np.testing.assert_allclose(rescored(job, ranker, impression), ranking.scores, rtol=1e-5)
    np.testing.assert_array_equal(ranking.scores[0], ranking.scores[2])


def test_the_impression_holds_every_feature_as_it_was_served(ranker, impressions):
    rank_and_log(ranker, request(1, [2, 500]))
    (impression,) = impressions.kept
    assert {name: found.fids.tolist() for name, found in impression.shared.sparse.items()} == {"user_id": [1], "city": [1], "tab": [7]}
    assert impression.candidates.sparse["item_id"].fids.tolist() == [2, 500]
    assert impression.candidates.sparse["tags"].lengths.tolist() == [2, 0]
    assert impression.shared.dense["hour"].tolist() == [[0.5, 7.0]]
    np.testing.assert_allclose(impression.candidates.dense["price"], [[0.4], [0.0]], rtol=1e-6)


def test_counters_of_several_fids_are_their_mean_and_of_none_the_prior(job, ranker, impressions):
    rank_and_log(ranker, request(1, [2, 500]))
    (impression,) = impressions.kept
    weight, rate = job.counters.prior_weight, job.counters.prior_rate
    prior = np.array([0.0, rate, rate])
    tag_1 = np.array([np.log1p(50) / 10, (25 + weight * rate) / (50 + weight), (5 + weight * rate) / (50 + weight)])
    np.testing.assert_allclose(impression.candidates.dense["counter_tags"], [(prior + tag_1) / 2, prior], rtol=1e-5)
    city = [np.log1p(90) / 10, (9 + weight * rate) / (90 + weight), weight * rate / (90 + weight)]
    np.testing.assert_allclose(impression.shared.dense["counter_city"], [city], rtol=1e-5)


def test_requests_scored_together_get_the_scores_of_each_on_its_own(job, ranker, impressions, work_factor):
    generator = np.random.default_rng(0)
    requests = [
        request(int(generator.integers(8)), generator.integers(0, 25, generator.integers(1, 30)).tolist(), tab)
        for tab in range(64 * work_factor)
    ]
    alone = [ranker.rank(one, FAR_S).scores for one in requests]
    gathered = threading.Barrier(16)

    def rank(one: RankInput):
        gathered.wait()
        return rank_and_log(ranker, one).scores

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(rank, requests))
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)
    for impression in impressions.kept:
        np.testing.assert_allclose(rescored(job, ranker, impression), impression.scores, rtol=1e-5)


@pytest.mark.parametrize(("max_batch_candidates", "expected"), [(4, [3, 3, 2]), (100, [3, 5])])
def test_requests_are_scored_together_up_to_the_largest_batch(job, kv, max_batch_candidates, expected):
    """Two requests wait while the first is scored: they fit one batch, or have too many candidates for one."""
    serving = job.serving.model_copy(update={"max_batch_candidates": max_batch_candidates})
    job = job.model_copy(update={"serving": serving})
    replica, clock = GatedReplica(job), SystemClock()
    ranker = Ranker(job, replica, FeatureStore(kv, Schema.of(job), LiveCounters.of(job), job.serving, clock), None, clock)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(ranker.rank, request(1, [1, 2, 3]), FAR_S)]
        replica.entered.wait()
        for num_waiting, item_ids in enumerate([[4, 5, 6], [7, 8]], start=1):
            futures.append(pool.submit(ranker.rank, request(2, item_ids), FAR_S))
            while len(ranker._batcher._queue) < num_waiting:
                threading.Event().wait(0.001)
        replica.gate.set()
        assert [len(future.result().scores) for future in futures] == [3, 3, 2]
    assert replica.batch_sizes == expected


@pytest.mark.parametrize("late_s", [0.0, 1.0])
def test_a_request_past_its_deadline_reads_no_features_and_is_not_scored(job, impressions, late_s, caplog):
    class UnaskedKv(MemoryKv):
        def get_many(self, keys):
            pytest.fail(f"asked for {keys}")

    ranker, before = ranker_on(job, UnaskedKv(), impressions), FEATURES_UNREAD.labels(entity="user")._value.get()
    with pytest.raises(TimeoutError, match="before the request was ranked"):
        ranker.rank(request(1, [1]), SystemClock().monotonic_s() - late_s)
    assert not impressions.kept and not caplog.records and FEATURES_UNREAD.labels(entity="user")._value.get() == before


def test_probabilities_that_are_not_finite_are_never_served(ranker, impressions):
    ranker._replica.state.dense.tensors["head.bias"][:] = np.nan
    with pytest.raises(ModelNotFinite, match=r"probabilities of model 4.2 must be finite, got NaN or Inf"):
        ranker.rank(request(1, [1]), FAR_S)
    assert not impressions.kept


def test_a_replica_without_a_model_is_an_error(job, ranker):
    class EmptyReplica:
        def require_ready(self):
            raise NotReady("no checkpoint yet")

    ranker._replica = EmptyReplica()
    with pytest.raises(NotReady, match="no checkpoint yet"):
        ranker.rank(request(1, [1]), FAR_S)


class BrokenKv(MemoryKv):
    """A store that fails while `is_away`."""

    is_away = True

    def get_many(self, keys):
        if self.is_away:
            raise KvError("redis://:secret@10.0.0.7:6379: away")
        return super().get_many(keys)


def ranker_on(job: JobConfig, kv: MemoryKv, impressions: KeptImpressions, replica=None, **serving) -> Ranker:
    job = job.model_copy(update={"serving": job.serving.model_copy(update=serving)})
    clock = SystemClock()
    return Ranker(
        job, replica or StillReplica(job), FeatureStore(kv, Schema.of(job), LiveCounters.of(job), job.serving, clock), impressions, clock
    )


def test_without_its_store_a_request_is_scored_by_its_ids_and_is_no_training_data(job, impressions):
    ranker = ranker_on(job, BrokenKv(), impressions)
    scores = rank_and_log(ranker, request(1, [3, 4])).scores
    assert np.isfinite(scores).all() and (scores[0] != scores[1]).all()
    assert not impressions.kept


def test_without_its_store_a_request_is_refused_if_the_settings_say_so(job, impressions):
    with pytest.raises(KvError):
        ranker_on(job, BrokenKv(), impressions, without_features="refuse").rank(request(1, [3]), FAR_S)


class HangingKv(MemoryKv):
    """A store that answers once its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def get_many(self, keys):
        self.gate.wait()
        return super().get_many(keys)


def test_a_store_that_hangs_fails_no_request(job, impressions):
    """A stopped Redis took down all users, those in the cache too, for 68 s: workers waited 5 s eight times."""
    kv = HangingKv()
    kv.gate.set()
    ranker = ranker_on(job, kv, impressions)
    rank_and_log(ranker, request(1, [3]))
    kv.gate.clear()
    clock = SystemClock()
    with ThreadPoolExecutor(16) as pool:
        uncached = [pool.submit(ranker.rank, request(user, [3]), clock.monotonic_s() + 2.0) for user in range(10, 42)]
        cached = [pool.submit(ranker.rank, request(1, [3]), clock.monotonic_s() + 60.0) for _ in range(8)]
        gate_opens = threading.Timer(50, kv.gate.set)  # so that a ranker which waits for the store fails, and does not hang
        gate_opens.start()
        assert all(future.exception() is None or isinstance(future.exception(), TimeoutError) for future in uncached)
        assert all(future.result().features.is_complete for future in cached)
        assert not kv.gate.is_set()
        gate_opens.cancel()
    assert not ranker.rank(request(99, [3]), clock.monotonic_s() + 60.0).features.is_complete  # at once: the store is known to hang
    kv.gate.set()


class PoisonedReplica(GatedReplica):
    """A model whose scores of the candidates with hour -1 are NaN, as those of a request with huge values are."""

    def predict(self, batch, shared=None) -> np.ndarray:
        scores = super().predict(batch, shared)
        scores[batch.dense[:, 0] == -1.0] = np.nan
        return scores


def scored_together(ranker: Ranker, replica: GatedReplica, requests: list[RankInput]) -> list[Ranking | Exception]:
    """Return the outcome of each request; all but the first wait while it is scored."""
    with ThreadPoolExecutor(len(requests)) as pool:
        futures = [pool.submit(ranker.rank, requests[0], FAR_S)]
        replica.entered.wait()
        for num_waiting, one in enumerate(requests[1:], start=1):
            futures.append(pool.submit(ranker.rank, one, FAR_S))
            while len(ranker._batcher._queue) < num_waiting:
                threading.Event().wait(0.001)
        replica.gate.set()
        return [future.exception() or future.result() for future in futures]


def poisoned_request() -> RankInput:
    context = PackedRow(np.array([7], np.int64), np.array([1], np.int32), np.array([-1.0, 0.0], np.float32))
    return RankInput("poison", START_MS, 1, np.array([1, 2], np.int64), context)


def test_a_request_whose_scores_are_not_finite_fails_alone(job, kv, impressions):
    """64 finite values of 3e38 failed up to 70 of 1,200 sound requests of the same batches."""
    replica = PoisonedReplica(job)
    ranker = ranker_on(job, kv, impressions, replica)
    outcomes = scored_together(ranker, replica, [request(0, [1]), request(1, [1, 2]), poisoned_request(), request(2, [3])])
    assert [isinstance(one, ModelNotFinite) for one in outcomes] == [False, False, True, False]
    assert replica.batch_sizes == [1, 5]


def test_shared_features_give_the_same_scores_looked_up_once_or_repeated(job, kv, impressions, monkeypatch):
    ranker = ranker_on(job, kv, impressions)
    group = [ranker._features.read(user, np.arange(5 * user + 1), request(user, [0]).context, FAR_S) for user in range(4)]
    scores = []
    for max_repeated, is_shared in ((10**9, False), (0, True)):
        monkeypatch.setattr(request_features, "_MAX_REPEATED_FIDS", max_repeated)
        assert (ranker._features.batch(group)[1] is not None) is is_shared
        scores.append(np.concatenate([one.scores for one in ranker._score(group)]))
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_features_that_all_candidates_share_are_looked_up_once(job, kv, impressions):
    """20,000 fids of a context feature times 2,000 candidates took 2.4 s and 830 MB."""
    looked_up = []

    class CountingReplica(StillReplica):
        def __init__(self, job):
            super().__init__(job)
            pool = self._state.table.pool
            self._state.table.pool = lambda batch: looked_up.append(len(batch.fids)) or pool(batch)

    context = PackedRow(np.arange(4000, dtype=np.int64), np.array([4000], np.int32), np.zeros(2, np.float32))
    ranker = ranker_on(job, kv, impressions, CountingReplica(job))
    ranker.rank(RankInput("r", START_MS, 1, np.arange(1000), context), FAR_S)
    num_tags = 30  # items 0..19 have item % 4 tags
    assert sum(looked_up) == 4000 + 2 + 1000 + num_tags


def test_a_request_whose_work_cannot_be_done_in_time_is_refused_before_it_is_done(job, kv, impressions):
    ranker = ranker_on(job, kv, impressions)
    clock = SystemClock()
    for _ in range(16):
        ranker._work.note(1, 1.0)
    with pytest.raises(Overloaded, match="request would take"):
        ranker.rank(request(1, [1]), clock.monotonic_s() + 60)


def test_a_false_estimate_of_the_work_does_not_last(job, kv, impressions):
    ranker = ranker_on(job, kv, impressions)
    for _ in range(100):
        ranker._work.note(1, 1.0)
    for _ in range(16):
        with pytest.raises(Overloaded):
            ranker.rank(request(1, [1]), SystemClock().monotonic_s() + 60)
    assert ranker.rank(request(1, [1]), SystemClock().monotonic_s() + 60).scores.shape == (1, 2)


def test_a_request_whose_caller_has_left_is_not_scored(job, kv, impressions):
    replica = GatedReplica(job)
    replica.gate.set()
    with pytest.raises(CancelledError):
        ranker_on(job, kv, impressions, replica).rank(request(1, [1]), FAR_S, lambda: False)
    assert replica.batch_sizes == []

"""Ranking in the core: the scores, impressions and answers of the Python path, for any job and request; stores that fail.

Longer than 300 lines: one setting of both paths serves all tests.
"""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.errors import KvError, ModelNotFinite, NotReady, Overloaded
from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_impression, encode_features
from monolith_py.model import build_model
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.sync import DenseState, RowEncoding, pack_rows
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.core_ranker import CoreRanker, runs_in_core
from monolith_serving.ranking.impression_encoder import ImpressionEncoder, ServedRequest
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.ranking.request import RequestParser
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.device import Cpu
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.table import ReplicaTable

FAR_S = SystemClock().monotonic_s() + 1e6
TIME_MS = SystemClock().now_ms()
NUM_ROWS, NUM_USERS, NUM_ITEMS = 60, 5, 30


def model_of(job: JobConfig, seed: int, generator: np.random.Generator | None = None) -> DenseModel:
    """Return a model with the start weights of `seed`, moved at random with a `generator`."""
    model = build_model(Schema.of(job), job.model, seed)
    if generator is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.from_numpy(generator.normal(0, 0.05, parameter.shape).astype(np.float32))
    return DenseModel(Schema.of(job), job.model, DenseState.of(model.state_dict()))


class StillReplica:
    """A replica with random rows for fids below 60 of every feature; tests may replace `state`."""

    def __init__(self, job: JobConfig, encoding: RowEncoding, generator: np.random.Generator) -> None:
        schema = Schema.of(job)
        table = ReplicaTable(schema.features, encoding, torch.device("cpu"), engine="core")
        for feature in schema.features:
            weights = generator.normal(0, 0.3, (NUM_ROWS, feature.dim)).astype(np.float32)
            table.assign(feature.name, np.arange(NUM_ROWS), pack_rows(weights, encoding), encoding)
        model = model_of(job, 0, generator)
        self.state = ModelState(table, model, model.state, (4, 2), 0)
        self.is_loaded = True

    def require_ready(self) -> None:
        if not self.is_loaded:
            raise NotReady("no checkpoint")

    def staleness_ms(self) -> int:
        return 17

    def event_staleness_ms(self) -> int:
        return 23


class LoadingReplica:
    @property
    def state(self) -> ModelState:
        raise NotReady("no checkpoint")


class TorchReplica(StillReplica):
    """The same state, computed by torch."""

    def __init__(self, job: JobConfig, replica: StillReplica) -> None:
        self._job, self._replica = job, replica

    @property
    def state(self) -> ModelState:
        state = self._replica.state
        return replace(state, model=DenseModel(Schema.of(self._job), self._job.model, state.dense, Cpu()))

    def require_ready(self) -> None:
        self._replica.require_ready()


def random_job(generator: np.random.Generator) -> JobConfig:
    def pick(*choices):
        return choices[int(generator.integers(len(choices)))]

    sources = [pick("user", "item", "context", "user_id", "item_id") for _ in range(generator.integers(0, 8))] + ["item_id", "user_id"]
    dim, tower = pick(4, 8, 16, 12, 64), pick([], [40], [64, 33], [256, 128, 64])
    sparsity = {"preset": "static", "density": 0.5, "atom": pick("16x1", "1x1", "neuron")} if tower and generator.random() < 0.5 else {}
    keys = sorted({f"f{generator.integers(len(sources))}" for _ in range(generator.integers(0, 3))})
    return parse_job(
        {
            "name": "random",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [
                {"name": f"f{index}", "source": source, "dim": dim, "pooling": pick("sum", "mean"), **pick({}, {"encoding": "int4"})}
                for index, source in enumerate(sources)
            ],
            "dense_features": [
                {"name": f"d{index}", "source": pick("user", "item", "context"), "dim": int(generator.integers(1, 5))}
                for index in range(generator.integers(0, 5))
            ],
            "tasks": [{"name": f"t{index}", "action": f"t{index}"} for index in range(generator.integers(1, 4))],
            "counters": {"enabled": bool(keys), "keys": keys},
            "model": {
                "tower": tower,
                "precision": pick("fp32", "auto", "bf16"),
                "kind": pick("deepfm", "dlrm"),
                "dropout": pick(0.0, 0.1) if tower else 0.0,
                "sparsity": sparsity,
            },
            "trainer": {"checkpoint_dir": "unused"},
        }
    )


def random_features(job: JobConfig, generator: np.random.Generator, source: str) -> FeatureColumns:
    schema = Schema.of(job)
    sparse, dense = {}, {}
    for feature in schema.features:
        if feature.source == source and generator.random() < 0.8:
            num = int(generator.choice([0, 1, 1, 1, 3]))
            sparse[feature.name] = SparseColumn(generator.integers(0, NUM_ROWS + 20, num), np.array([num], np.int32))
    for feature in schema.dense_features:
        if feature.source == source and generator.random() < 0.8:
            dense[feature.name] = generator.normal(size=(1, feature.dim)).astype(np.float32)
    return FeatureColumns(1, sparse, dense)


class Setting:
    """Both rankers over one replica and one store."""

    def __init__(self, job: JobConfig, generator: np.random.Generator, clock=None) -> None:
        self.job, self.generator, self.clock = job, generator, clock or SystemClock()
        schema, counters = Schema.of(job), LiveCounters.of(job)
        self.kv = MemoryKv()
        for kind, number in (("user", NUM_USERS), ("item", NUM_ITEMS)):
            self.kv.write({f"{kind}:{one}": encode_features(random_features(job, generator, kind)) for one in range(number)})
        for key in job.counters.keys if job.counters.enabled else ():
            counts = [generator.integers(0, 50, (len(job.tasks), 2)) for _ in range(50)]
            self.kv.write({counters.key(key, fid): counters.encode(count) for fid, count in enumerate(counts)})
        self.store = FeatureStore(self.kv, schema, counters, job.serving, self.clock)
        encoding = [RowEncoding.INT8, RowEncoding.FP16, RowEncoding.FP32][generator.integers(3)]
        self.replica, self.kept = StillReplica(job, encoding, generator), []
        self.ranker = Ranker(job, TorchReplica(job, self.replica), self.store, None, self.clock)
        self.core = CoreRanker(job, self.replica, self.store, self, self.clock)

    def put(self, served, num_bytes: int) -> None:
        (value,) = ImpressionEncoder(self.job)([served])
        assert len(value) <= num_bytes + 1024
        self.kept.append(decode_impression(value))

    def request(self, num_candidates: int, **fields) -> pb.RankRequest:
        items = self.generator.integers(0, NUM_ITEMS + 10, num_candidates).tolist()
        message = pb.RankRequest(user_id=int(self.generator.integers(0, NUM_USERS + 3)), item_ids=items, **fields)
        context = random_features(self.job, self.generator, "context")
        for name, column in context.sparse.items():
            message.context.sparse.add(name=name, fids=column.fids.tolist(), lengths=column.lengths.tolist())
        for name, values in context.dense.items():
            message.context.dense.add(name=name, values=values[0].tolist())
        return message

    def rank(self, message: pb.RankRequest, deadline_s: float = FAR_S):
        return self.core.rank(message.SerializeToString(), deadline_s)

    def rank_in_python(self, message: pb.RankRequest):
        parser = RequestParser(self.ranker.order, Schema.of(self.job).tasks, self.job.serving, EventTimeRule.of(self.job.log))
        request = parser.parse(message, request_id="own", now_ms=self.clock.now_ms())
        return request, self.ranker.rank(request, FAR_S)


def answer_of(ranked) -> tuple[pb.RankResponse, np.ndarray]:
    answer = pb.RankResponse.FromString(ranked.response)
    return answer, np.array(answer.scores, np.float32).reshape(ranked.num_candidates, len(answer.task_names))


@pytest.mark.parametrize("seed", range(24))
def test_scores_answers_and_impressions_are_those_of_the_python_path(seed):
    generator = np.random.default_rng(seed)
    setting = Setting(random_job(generator), generator)
    encode = ImpressionEncoder(setting.job)
    # Products of bf16 are summed in another order, and sums rounded to bf16 differ in their last bit: 2^-8.
    atol = 4e-3 if setting.replica.state.model.shape.bf16 else 2e-6
    spread = 0.0
    for num_candidates in (1, 2, 7, 130):
        message = setting.request(num_candidates, request_id=f"r{num_candidates}", time_ms=TIME_MS)
        request, expected = setting.rank_in_python(message)
        ranked = setting.rank(message)
        answer, scores = answer_of(ranked)
        np.testing.assert_allclose(scores, expected.scores, atol=atol)
        assert answer.SerializeToString() == ranked.response
        assert (answer.request_id, tuple(answer.task_names)) == (f"r{num_candidates}", Schema.of(setting.job).tasks)
        assert (answer.model_version, answer.staleness_ms, answer.event_staleness_ms) == ("4.2", 17, 23)
        assert encode([ranked]) == encode([ServedRequest(request, expected.features, scores, "4.2")])
        spread = max(spread, float(np.ptp(scores)))
    assert spread > 1e-3


@pytest.fixture
def job() -> JobConfig:
    return parse_job(
        {
            "name": "small",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [
                {"name": name, "source": source, "dim": 8}
                for name, source in {"city": "user", "item": "item_id", "tab": "context", "tags": "item"}.items()
            ],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [16], "precision": "fp32"},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )


@pytest.fixture
def setting(job) -> Setting:
    return Setting(job, np.random.default_rng(1))


def test_a_request_without_an_id_gets_one_of_its_own(setting):
    ids = {setting.rank(setting.request(1)).request_id for _ in range(50)}
    assert len(ids) == 50 and all(len(one) == 32 for one in ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": "caf\u00e9"},
        {"request_id": "x" * 129},
        {"time_ms": 5},
        {"time_ms": 1 << 62},
        {"time_ms": TIME_MS - 90_000_000},
        {"item_ids": []},
        {"item_ids": list(range(2001))},
        {"return_features": ["f0"]},
    ],
)
def test_odd_requests_are_left_to_the_python_path(setting, fields):
    message = setting.request(1)
    for name in fields:
        message.ClearField(name)
    message.MergeFrom(pb.RankRequest(**fields))
    assert setting.rank(message) is None


def test_garbage_is_left_to_the_python_path(setting):
    assert setting.core.rank(b"\xff\xff", FAR_S) is None
    assert setting.core.rank(setting.request(2).SerializeToString() + b"\xf8\x07\x01", FAR_S) is None


def test_stored_features_are_read_once_and_again_when_they_expire(job):
    class Clock(SystemClock):
        later_s = 0.0

        def monotonic_s(self) -> float:
            return super().monotonic_s() + self.later_s

    clock = Clock()
    setting = Setting(job, np.random.default_rng(1), clock)
    message = pb.RankRequest(user_id=1, item_ids=[1, 2, 1])
    _, before = answer_of(setting.rank(message))
    setting.kv.write({"item:1": encode_features(FeatureColumns(1, {"tags": SparseColumn(np.array([3, 4]), np.array([2], np.int32))}))})
    _, same = answer_of(setting.rank(message))
    clock.later_s = job.serving.feature_cache_s + 1
    _, after = answer_of(setting.rank(message))
    assert (same == before).all() and after[0] != before[0] and after[1] == before[1]
    assert after[0] == after[2]


class FailingKv:
    def get_many(self, keys):
        raise KvError("no store")


def failing(setting: Setting) -> None:
    setting.store._reader._kv = FailingKv()


class CountedKv:
    def __init__(self, kv) -> None:
        self.kv, self.num_reads = kv, 0

    def get_many(self, keys):
        self.num_reads += 1
        return self.kv.get_many(keys)


def test_a_request_beyond_the_cache_is_left_to_the_python_path_after_one_read(job):
    serving = job.serving.model_copy(update={"feature_cache_entries": 3})
    setting = Setting(job.model_copy(update={"serving": serving}), np.random.default_rng(1))
    kv = setting.store._reader._kv = CountedKv(setting.kv)
    assert setting.rank(pb.RankRequest(user_id=1, item_ids=[1, 2, 3])) is not None
    assert kv.num_reads == 2  # of the user, and of the items
    assert setting.rank(pb.RankRequest(user_id=1, item_ids=[4, 5, 6, 7, 8])) is None
    assert kv.num_reads == 3


def test_a_store_that_fails_is_answered_without_its_features_and_not_logged(setting):
    message = setting.request(3)
    failing(setting)
    ranked = setting.rank(message)
    setting.core.log(ranked)
    assert not ranked.is_complete and not setting.kept


def test_items_are_read_although_the_user_cannot_be(job):
    class NoUsersKv(CountedKv):
        def get_many(self, keys):
            if keys[0].startswith("user:"):
                raise KvError("no shard of users")
            return super().get_many(keys)

    setting = Setting(job, np.random.default_rng(1))
    message = pb.RankRequest(user_id=NUM_USERS + 50, item_ids=[1, 2, 3])  # without stored features
    setting.store._reader._kv = NoUsersKv(setting.kv)
    ranked = setting.rank(message)
    np.testing.assert_allclose(answer_of(ranked)[1], setting.rank_in_python(message)[1].scores, atol=2e-6)
    assert not ranked.is_complete


def test_a_store_that_fails_leaves_what_is_held(job):
    setting = Setting(job, np.random.default_rng(1))
    message = pb.RankRequest(user_id=1, item_ids=[1, 2])
    _, before = answer_of(setting.rank(message))
    failing(setting)
    ranked = setting.rank(message)
    setting.core.log(ranked)
    assert (answer_of(ranked)[1] == before).all() and ranked.is_complete and len(setting.kept) == 1


def test_a_store_that_fails_is_an_error_if_the_settings_want_its_features(job):
    serving = job.serving.model_copy(update={"without_features": "refuse"})
    setting = Setting(job.model_copy(update={"serving": serving}), np.random.default_rng(1))
    failing(setting)
    with pytest.raises(KvError):
        setting.rank(setting.request(1))


def test_a_passed_deadline_is_an_error(setting):
    with pytest.raises(TimeoutError):
        setting.rank(setting.request(1), setting.clock.monotonic_s() - 1)


def test_a_caller_that_leaves_while_features_are_read_gets_no_scores(setting):
    value = pb.RankRequest(user_id=1, item_ids=[1, 2]).SerializeToString()
    with pytest.raises(CancelledError):
        setting.core.rank(value, FAR_S, lambda: False)
    assert setting.core.rank(value, FAR_S, lambda: False).num_candidates == 2  # all features are held


def test_work_beyond_the_deadline_is_refused(job):
    class StillClock(SystemClock):
        now_s = 1000.0

        def monotonic_s(self) -> float:
            return self.now_s

    clock = StillClock()
    setting = Setting(job, np.random.default_rng(1), clock)
    setting.rank(pb.RankRequest(item_ids=[1] * 2000), clock.now_s + 10)
    with pytest.raises(Overloaded):
        setting.rank(pb.RankRequest(item_ids=[1] * 2000), clock.now_s + 1e-6)


def test_probabilities_that_are_not_finite_are_an_error(setting):
    setting.replica.state.dense.tensors["head.bias"][:] = np.nan
    with pytest.raises(ModelNotFinite):
        setting.rank(setting.request(1))


def test_new_weights_score_with_their_version(setting, job):
    message = setting.request(4)
    _, before = answer_of(setting.rank(message))
    model = model_of(job, 7)
    setting.replica.state = replace(setting.replica.state, model=model, dense=model.state, next_delta=(4, 3))
    answer, after = answer_of(setting.rank(message))
    assert answer.model_version == "4.3" and not np.allclose(before, after)
    np.testing.assert_allclose(after, setting.rank_in_python(message)[1].scores, atol=2e-6)


def test_requests_beside_the_packing_of_new_weights_have_the_version_of_the_last_delta(setting, job):
    message = setting.request(4)
    setting.rank(message)
    setting.replica.state = replace(setting.replica.state, next_delta=(4, 9))
    assert answer_of(setting.rank(message))[0].model_version == "4.9"
    model = model_of(job, 7)
    setting.replica.state = replace(setting.replica.state, model=model, dense=model.state, next_delta=(4, 10))
    with setting.core._packing:
        assert answer_of(setting.rank(message))[0].model_version == "4.9"
    assert answer_of(setting.rank(message))[0].model_version == "4.10"


def test_an_earlier_table_is_freed_without_another_request(job):
    setting = Setting(job, np.random.default_rng(1))
    setting.rank(setting.request(4))
    earlier = weakref.ref(setting.replica.state.table)
    setting.replica.state = StillReplica(job, RowEncoding.FP16, np.random.default_rng(2)).state
    setting.core.keep_up()
    gc.collect()
    assert earlier() is None


def test_nothing_is_kept_up_before_the_first_checkpoint(job):
    setting = Setting(job, np.random.default_rng(1))
    setting.replica = setting.core._replica = LoadingReplica()
    setting.core.keep_up()
    with pytest.raises(NotReady):
        setting.core.rank_at_once(setting.request(1).SerializeToString(), FAR_S)


def test_a_request_is_ranked_at_once_if_all_is_held(setting, job):
    message = setting.request(4, request_id="r")
    value = message.SerializeToString()
    assert setting.core.rank_at_once(value, FAR_S) is None  # no model is packed
    expected = setting.rank(message)
    ranked = setting.core.rank_at_once(value, FAR_S)
    assert ranked.response == expected.response
    other = pb.RankRequest(user_id=99, item_ids=[98]).SerializeToString()
    assert setting.core.rank_at_once(other, FAR_S) is None  # its features must be read
    setting.replica.state = replace(setting.replica.state, next_delta=(4, 9))
    assert answer_of(setting.core.rank_at_once(value, FAR_S))[0].model_version == "4.9"
    model = model_of(job, 7)
    setting.replica.state = replace(setting.replica.state, model=model, dense=model.state, next_delta=(4, 10))
    assert setting.core.rank_at_once(value, FAR_S) is None
    setting.core.keep_up()
    assert answer_of(setting.core.rank_at_once(value, FAR_S))[0].model_version == "4.10"


def test_requests_of_many_threads_get_their_own_scores(setting):
    messages = [setting.request(1 + number % 9) for number in range(40)]
    expected = [answer_of(setting.rank(message))[1] for message in messages]
    gate = threading.Barrier(4)

    def work(start: int) -> bool:
        gate.wait()
        picks = range(start, 200 + start)
        return all((answer_of(setting.rank(messages[one % 40]))[1] == expected[one % 40]).all() for one in picks)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_jobs_that_the_core_cannot_rank(job):
    off, fbgemm = {"feature_cache_s": 0.0}, {"engine": "fbgemm"}
    assert runs_in_core(job)
    for update in (off, fbgemm):
        assert not runs_in_core(job.model_copy(update={"serving": job.serving.model_copy(update=update)}))
    for update in ({"pooling": "first", "length": 2}, {"dim": 2 * job.features[0].dim}):
        assert not runs_in_core(job.model_copy(update={"features": (*job.features, job.features[0].model_copy(update=update))}))

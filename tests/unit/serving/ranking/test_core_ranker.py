"""Ranking in the core: stores that fail or hold too little, deadlines, many threads."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from core_setting import (
    FAR_S,
    NUM_ITEMS,
    NUM_USERS,
    LoadingReplica,
    Setting,
    StillReplica,
    answer_of,
    model_of,
    small_job,
)

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.errors import KvError, ModelNotFinite, NotReady, Overloaded
from monolith_py.io.codec import encode_features
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.sync import RowEncoding
from monolith_serving.ranking.core_ranker import runs_in_core


@pytest.fixture
def job() -> JobConfig:
    return small_job()


@pytest.fixture
def setting(job) -> Setting:
    return Setting(job, np.random.default_rng(1))


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


def with_counters(job: JobConfig) -> JobConfig:
    return parse_job(job.model_dump(mode="json", exclude_unset=True) | {"counters": {"enabled": True, "keys": ["item"]}})


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


def test_counters_are_read_although_features_cannot_be(job):
    """A failed read of features left the counters unread, although their shard of the store answered."""

    class NoFeaturesKv(CountedKv):
        def get_many(self, keys):
            if keys[0].startswith(("user:", "item:")):
                raise KvError("no shard of features")
            return super().get_many(keys)

    setting = Setting(with_counters(job), np.random.default_rng(1))
    kv = setting.store._reader._kv = NoFeaturesKv(setting.kv)
    message = pb.RankRequest(user_id=NUM_USERS + 50, item_ids=[NUM_ITEMS + 50, NUM_ITEMS + 51, 3])  # two without stored features
    ranked = setting.rank(message)
    assert kv.num_reads == 1 and not ranked.is_complete
    scores, (_, expected) = answer_of(ranked)[1], setting.rank_in_python(message)
    np.testing.assert_allclose(scores[:2], expected.scores[:2], atol=2e-6)


def test_counters_that_cannot_be_read_are_an_error_if_the_settings_want_them(job):
    class NoCountersKv(CountedKv):
        def get_many(self, keys):
            if not keys[0].startswith(("user:", "item:")):
                raise KvError("no shard of counters")
            return super().get_many(keys)

    serving = job.serving.model_copy(update={"without_features": "refuse"})
    setting = Setting(with_counters(job).model_copy(update={"serving": serving}), np.random.default_rng(1))
    setting.store._reader._kv = NoCountersKv(setting.kv)
    with pytest.raises(KvError):
        setting.rank(setting.request(1))


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


def test_jobs_that_the_core_can_rank(job):
    off, fbgemm = {"feature_cache_s": 0.0}, {"engine": "fbgemm"}
    assert runs_in_core(job)
    for update in (off, fbgemm):
        assert not runs_in_core(job.model_copy(update={"serving": job.serving.model_copy(update=update)}))
    for update in ({"pooling": "first", "length": 2}, {"dim": 2 * job.features[0].dim}):
        assert runs_in_core(job.model_copy(update={"features": (*job.features, job.features[0].model_copy(update=update))}))

"""A job whose features have dims, encodings and poolings of their own: what is trained on lists of a user is what replicas rank with."""

from __future__ import annotations

import numpy as np
import pytest

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.data.packed_rows import PackedRow
from monolith_py.io import MemoryKv
from monolith_py.io.codec import encode_features
from monolith_py.model.batch import make_batch
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.core_ranker import CoreRanker, runs_in_core
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.ranking.request import RankInput

NO_CONTEXT = PackedRow(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def bag(*fids: int) -> SparseColumn:
    return SparseColumn(np.array(fids, np.int64), np.array([len(fids)], np.int32))


@pytest.mark.parametrize("kind", ["deepfm", "dlrm", "dcn"])
@pytest.mark.parametrize("engine", ["core", "fbgemm"])
@pytest.mark.parametrize("features", ["mixed", "sequences"])
def test_sequences_of_the_user_are_ranked_as_they_were_learnt(make_trainer, make_replica, clock, features, engine, kind):
    trainer = make_trainer(features, {"kind": kind}, engine=engine)
    trainer.checkpoint()
    replica = make_replica(trainer)
    trainer.step(12)
    trainer.publish()
    trainer.lead(replica)
    # The digest was compared, row by row in each encoding.
    assert replica.state.table.digest == trainer.publisher.digest.rows
    trainer.assert_parity(replica, 0.02)
    kv, items = MemoryKv(), np.array([3, 9, 200])
    history, liked, tags = [[5, 90, 7], [8], []], [[1, 2, 2], [], [3]], [[-4, 4, 5], [], [11]]
    for user in range(3):
        lists = {"history": bag(*history[user]), "liked": bag(*liked[user])}
        kv.write({f"user:{user}": encode_features(FeatureColumns(1, lists, {"age": np.full((1, 1), 0.5, np.float32)}))})
    for item, own in zip(items.tolist(), tags, strict=True):
        kv.write({f"item:{item}": encode_features(FeatureColumns(1, {"tags": bag(*own)}))})
    job = trainer.job
    store = FeatureStore(kv, trainer.schema, LiveCounters.of(job), job.serving, clock)
    ranker = Ranker(job, replica, store, None, clock)
    core = CoreRanker(job, replica, store, None, clock) if runs_in_core(job) else None
    assert (core is None) == (engine == "fbgemm")
    for user in range(3):
        request = RankInput("r", clock.now_ms(), user, items, NO_CONTEXT)
        scores = ranker.rank(request, clock.monotonic_s() + 60).scores
        shared = {"user_id": bag(user), "history": bag(*history[user]), "liked": bag(*liked[user])}
        sparse = {name: column.repeat(3) for name, column in shared.items()}
        sparse |= {"item_id": SparseColumn(items, np.ones(3, np.int32)), "tags": SparseColumn.concat([bag(*own) for own in tags])}
        batch = make_batch(FeatureColumns(3, sparse, {"age": np.full((3, 1), 0.5, np.float32)}), trainer.schema)
        np.testing.assert_allclose(scores, trainer.probabilities(batch), rtol=0, atol=0.02)
        np.testing.assert_array_equal(scores, replica.state.predict(batch))
        if core is not None:
            ranked = core.rank(pb.RankRequest(user_id=user, item_ids=items).SerializeToString(), clock.monotonic_s() + 60)
            answer = pb.RankResponse.FromString(ranked.response)
            np.testing.assert_allclose(answer.scores, scores.ravel(), rtol=0, atol=4e-3)  # 2^-8: sums in another order, rounded to bf16

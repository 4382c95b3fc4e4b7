"""Impressions encoded by the core have the bytes of the codec, whatever the request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith_py.config import DenseFeatureConfig, JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Impression
from monolith_py.data.packed_rows import PackedRow, PackedRows
from monolith_py.data.schema import Schema
from monolith_py.io.codec import encode_impression
from monolith_serving.features.order import RequestOrder
from monolith_serving.features.request_features import RequestFeatures
from monolith_serving.ranking.impression_encoder import ImpressionEncoder, ServedRequest
from monolith_serving.ranking.request import RankInput

INT64 = st.integers(-(2**63), 2**63 - 1)
NO_CONTEXT = PackedRow(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def make_job(num_sparse: int = 3, num_dense: int = 2, num_tasks: int = 2, arm: str = "live", counted: bool = False) -> JobConfig:
    sources = ("user", "item", "context")
    features = [{"name": f"s{i}" * (1 + 40 * (i % 2)), "source": sources[i % 3]} for i in range(num_sparse)]
    dense = [{"name": f"d{i}", "source": sources[i % 3], "dim": 1 + 40 * (i % 2)} for i in range(num_dense)]
    ids = [{"name": "user_id", "source": "user_id"}, {"name": "item_id", "source": "item_id"}]
    return parse_job(
        {
            "name": "j",
            "log": {"url": "sqlite:///log"},
            "kv": {"url": "sqlite:///kv.db"},
            "trainer": {"checkpoint_dir": "checkpoints"},
            "features": ids + features,
            "dense_features": dense,
            "tasks": [{"name": f"task{i}", "action": f"task{i}"} for i in range(num_tasks)],
            "serving": {"arm": arm},
            "counters": {"enabled": counted, "keys": ["item_id", "user_id"] if counted else []},
        }
    )


def make_rows(generator: np.random.Generator, num_rows: int, num_features: int, width: int) -> PackedRows:
    """Return rows of bags, most with one fid, some large; the first row's fids are shared by the last."""

    def row() -> PackedRow:
        lengths = generator.choice([0, 1, 1, 1, 2, 200], num_features) if generator.random() < 0.5 else np.ones(num_features)
        fids = generator.integers(-(2**63), 2**63 - 1, int(lengths.sum()))
        return PackedRow(fids, lengths.astype(np.int32), generator.standard_normal(width).astype(np.float32))

    rows = PackedRows.of([row() for _ in range(num_rows)])
    rows.starts[-1], rows.lengths[-1] = rows.starts[0], rows.lengths[0]
    return rows


def make_served(job: JobConfig, generator: np.random.Generator, request_id: str, time_ms: int, user_id: int) -> ServedRequest:
    order, num = RequestOrder.of(Schema.of(job), job.counters), int(generator.choice([1, 1, 2, 7, 130]))
    shared = make_rows(generator, 1, len(order.shared_names), sum(dense.dim for dense in order.shared_dense))
    candidates = make_rows(generator, num, len(order.candidate_names), sum(dense.dim for dense in order.candidate_dense))
    item_ids = generator.integers(-(2**63), 2**63 - 1, num)
    scores = generator.random((num, len(job.tasks)), np.float32)
    version = "" if generator.random() < 0.2 else "17.4711"
    return ServedRequest(
        RankInput(request_id, time_ms, user_id, item_ids, NO_CONTEXT), RequestFeatures(shared, candidates), scores, version
    )


def by_codec(job: JobConfig, served: ServedRequest) -> bytes:
    order, request = RequestOrder.of(Schema.of(job), job.counters), served.request

    def columns(rows: PackedRows, names: tuple[str, ...], dense: tuple[DenseFeatureConfig, ...]) -> FeatureColumns:
        return rows.columns(names, dense)

    return encode_impression(
        Impression(
            request.request_id,
            request.time_ms,
            request.user_id,
            request.item_ids,
            columns(served.features.shared, order.shared_names, order.shared_dense),
            columns(served.features.candidates, order.candidate_names, order.candidate_dense),
            served.scores,
            Schema.of(job).tasks,
            served.model_version,
            job.serving.arm,
        )
    )


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.builds(make_job, st.integers(0, 5), st.integers(0, 5), st.integers(1, 3), st.sampled_from(["live", "b_1"]), st.booleans()),
    st.lists(st.tuples(st.text(max_size=140).filter(lambda text: text.isprintable()), INT64, INT64), min_size=1, max_size=3),
)
def test_the_bytes_are_those_of_the_codec(seed: int, job: JobConfig, requests: list[tuple[str, int, int]]) -> None:
    generator = np.random.default_rng(seed)
    served = [make_served(job, generator, *request) for request in requests]
    assert ImpressionEncoder(job)(served) == [by_codec(job, one) for one in served]


def test_no_request_gives_no_impression() -> None:
    assert ImpressionEncoder(make_job())([]) == []


def wrong(served: ServedRequest, **changes: object) -> ServedRequest:
    return served._replace(features=replace(served.features, candidates=replace(served.features.candidates, **changes)))


def test_arrays_that_do_not_fit_are_refused() -> None:
    job = make_job()
    encoder, served = ImpressionEncoder(job), make_served(job, np.random.default_rng(0), "r", 1, 1)
    rows = served.features.candidates
    for changed, message in (
        (served._replace(scores=served.scores[:, :1].copy()), "scores must have size 2, got 1"),
        (served._replace(scores=served.scores.astype(np.float64)), "scores must have 2 dimensions of type f, got 2 of d"),
        (served._replace(scores=served.scores[1:]), "scores must have size"),
        (wrong(served, starts=rows.starts + len(rows.fids)), r"bags must be within \d+ fids"),
        (wrong(served, starts=rows.starts - len(rows.fids)), r"bags must be within \d+ fids"),
        (wrong(served, lengths=-rows.lengths), r"bags must be within \d+ fids"),
        (wrong(served, dense=rows.dense[:, :1].copy()), "dense must have size"),
        (wrong(served, lengths=rows.lengths[:, :1].copy()), "lengths must have size"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder([served, changed])
    for request, error in (
        (replace(served.request, request_id="\ud800"), UnicodeEncodeError),
        (replace(served.request, time_ms=2**63), OverflowError),
    ):
        with pytest.raises(error):
            encoder([served._replace(request=request)])

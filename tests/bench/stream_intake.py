"""Trainer batches from records of examples, and impressions from answered requests: 36 features, one fid each."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from figures import figure
from stream_load import NUM_FEATURES, START_MS, feature_names, job_in

from monolith_py import _core
from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, ServingConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.packed_rows import PackedRow, PackedRows
from monolith_py.data.schema import Schema
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.data.steps import JoinerStep
from monolith_py.io import Log
from monolith_py.io.codec import encode_examples, encode_impression, step_to_metadata
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.io.log.memory import MemoryLog
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.model.batch import make_batch
from monolith_serving.features.order import RequestOrder
from monolith_serving.features.request_features import RequestFeatures
from monolith_serving.ranking.impression_encoder import ImpressionEncoder, ServedRequest
from monolith_serving.ranking.impression_log import ImpressionWriter
from monolith_serving.ranking.request import RankInput
from monolith_streaming.trainer.example_rules import ExampleRules
from monolith_streaming.trainer.source import ExampleSource
from monolith_streaming.trainer.step_order import SourcePlace

RECORD, NUM_RECORDS = 256, 2_500  # examples of a record
NUM_REQUESTS, AT_ONCE = 20_000, 500
NO_CONTEXT = PackedRow(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def write_examples(log: Log, job: JobConfig) -> None:
    """Append records as the joiner writes them: a step each, with scores at request time."""
    create_topics(log, job.log)
    rng, tasks = np.random.default_rng(0), [task.name for task in job.tasks]
    values = []
    for number in range(NUM_RECORDS):
        fids, ones = rng.integers(0, 1 << 40, (NUM_FEATURES, RECORD)), np.ones(RECORD, np.int32)
        scores = {task: rng.random(RECORD, np.float32) for task in tasks}
        batch = ExampleBatch(
            tuple(f"request-{number * RECORD + row}" for row in range(RECORD)),
            rng.integers(0, 1 << 40, RECORD),
            np.full(RECORD, START_MS + number),
            np.zeros(RECORD, np.uint8),
            np.ones(RECORD, np.float32),
            {task: (rng.random(RECORD) < 0.1).astype(np.float32) for task in tasks},
            FeatureColumns(RECORD, {name: SparseColumn(fids[index], ones) for index, name in enumerate(feature_names())}),
            ServedScores(scores, (ServedModel("live", "1.1"),), np.zeros(RECORD, np.int32)),
        )
        values.append(encode_examples(batch, step_to_metadata(JoinerStep(1, number, 0, True, 1))))
        if len(values) == 25:
            log.append(Topics.of(job.log).examples, values, time_ms=START_MS + number)
            values.clear()


def bench_intake(log: Log, job: JobConfig, name: str) -> None:
    """Make the model input of every example of the log, in batches of the size of a record."""
    _core.keep_freed_memory()  # as `monolith train` does
    topics, clock, schema = Topics.of(job.log), SystemClock(), Schema.of(job)
    dead_letters = DeadLetters(log, topics.dead_letters, clock)
    source = ExampleSource(log, topics.examples, SourcePlace(), dead_letters, clock, ExampleRules.of(job, clock))
    assert source.next_batch(RECORD, 5.0, lambda: False) is not None  # connections are open
    cpu_s, num = time.process_time(), 0
    while (batch := source.next_batch(RECORD, 1.0, lambda: False)) is not None:
        assert len(make_batch(batch.features, schema).fids) == NUM_FEATURES * len(batch)
        num += len(batch)
        if num == (NUM_RECORDS - 1) * RECORD:
            break
    figure(name, num / (time.process_time() - cpu_s), "1/s")


def bench_impressions() -> None:
    """Encode answered requests of one candidate, by the core and value by value in Python; then with queue and append."""
    job = job_in(Path("unused"))
    order, rng = RequestOrder.of(Schema.of(job), job.counters), np.random.default_rng(0)

    def rows(num_features: int) -> PackedRows:
        fids = rng.integers(0, 1 << 40, num_features)
        return PackedRows.of([PackedRow(fids, np.ones(num_features, np.int32), np.empty(0, np.float32))])

    served = [
        ServedRequest(
            RankInput(f"request-{index}", START_MS + index, index, rng.integers(0, 1 << 40, 1), NO_CONTEXT),
            RequestFeatures(rows(len(order.shared_names)), rows(len(order.candidate_names))),
            rng.random((1, len(job.tasks)), np.float32),
            "1.1",
        )
        for index in range(NUM_REQUESTS)
    ]
    encode = ImpressionEncoder(job)
    encode(served[:AT_ONCE])
    cpu_s = time.process_time()
    for start in range(0, NUM_REQUESTS, AT_ONCE):
        encode(served[start : start + AT_ONCE])
    figure("stream.impression_encode_us", (time.process_time() - cpu_s) / NUM_REQUESTS * 1e6, "us")
    cpu_s = time.process_time()
    values = [by_codec(one, job, order) for one in served[:AT_ONCE]]
    figure("stream.impression_encode_us_python", (time.process_time() - cpu_s) / AT_ONCE * 1e6, "us")
    assert values == encode(served[:AT_ONCE])
    bench_path(job, encode, served)


def by_codec(served: ServedRequest, job: JobConfig, order: RequestOrder) -> bytes:
    """Return the impression of a request by protobuf's accessors."""
    request, features = served.request, served.features
    shared = features.shared.columns(order.shared_names, order.shared_dense)
    candidates = features.candidates.columns(order.candidate_names, order.candidate_dense)
    tasks = Schema.of(job).tasks
    place = request.request_id, request.time_ms, request.user_id, request.item_ids
    return encode_impression(Impression(*place, shared, candidates, served.scores, tasks, served.model_version, job.serving.arm))


def bench_path(job: JobConfig, encode: ImpressionEncoder, served: list[ServedRequest]) -> None:
    """Queue, encode and append to a log in memory of 4 partitions."""
    log = MemoryLog()
    log.create_topic("impressions", 4)
    writer = ImpressionWriter(log, "impressions", ServingConfig(), SystemClock(), encode)
    cpu_s, thread_s = time.process_time(), time.thread_time()
    for one in served:
        writer.put(one, one.num_bytes)
    figure("stream.impression_put_us", (time.thread_time() - thread_s) / len(served) * 1e6, "us")
    writer.close()
    figure("stream.impression_path_us", (time.process_time() - cpu_s) / len(served) * 1e6, "us")
    assert sum(log.end_offset("impressions", partition) for partition in range(4)) == len(served)

"""The joiner and the replay on a genuine Kafka broker and a genuine Redis: the same examples from both, each once."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from uuid import uuid4

import numpy as np
import pytest

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.io import Log, open_kv, open_log
from monolith_py.io.codec import decode_examples, encode_action, encode_impression
from monolith_py.io.log.topics import Topics, create_topics, partition_of
from monolith_streaming.joiner.process import run_joiner
from monolith_streaming.replay.beam import run_replay

START_MS = 1_700_000_000_000
NUM_REQUESTS = 200
Example = tuple[str, int, int, float]


@pytest.mark.needs_kafka
@pytest.mark.needs_redis
@pytest.mark.slow
def test_joined_in_two_runs_and_replayed_the_stream_gives_each_example_once(kafka_url: str, redis_url: str) -> None:
    name = f"joiner_{uuid4().hex[:8]}"
    job = parse_job(
        {
            "name": name,
            "log": {"url": kafka_url, "partitions": 2, "topic_prefix": f"{name}."},
            "kv": {"url": redis_url},
            "features": [{"name": "video_id", "source": "item_id"}],
            "tasks": [{"name": "is_click", "action": "click"}],
            "joiner": {"window_s": 60, "allowed_lateness_s": 600, "max_records": 50, "examples_per_record": 16},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )
    topics = Topics.of(job.log)
    with closing(open_log(job.log.url)) as log:
        create_topics(log, job.log)
        expected: Counter[Example] = Counter()
        for half in range(2):
            expected += write_half(job, log, half)
            run_joiner(job, stop_at_end=True)
            assert examples(log, topics.examples) == expected
        result = run_replay(job, start_ms=START_MS, end_ms=START_MS + NUM_REQUESTS * 1000, output=None)
        assert examples(log, result.topic) == expected
    with closing(open_kv(job.kv.url)) as kv:
        assert {key.split(":")[3] for key, _ in kv.scan(f"joiner:{name}:")} <= {"position", "owner", "block", "members"}


def write_half(job: JobConfig, log: Log, half: int) -> Counter[Example]:
    """Append half of the stream; return its examples: every third is clicked, every sixth of these late."""
    topics = Topics.of(job.log)
    expected: Counter[Example] = Counter()
    for index in range(half * NUM_REQUESTS // 2, (half + 1) * NUM_REQUESTS // 2):
        request_id, item, time_ms = f"r{index}", index % 7, START_MS + index * 1000
        partition = partition_of(request_id, 2)
        columns = FeatureColumns(1, {"video_id": SparseColumn(np.array([item]), np.ones(1, np.int32))})
        impression = Impression(request_id, time_ms, 1, np.array([item]), FeatureColumns(1), columns, np.zeros((1, 0), np.float32))
        log.append(topics.impressions, [encode_impression(impression)], time_ms=time_ms, partition=partition)
        is_late = index % 6 == 0
        if index % 3 == 0:
            action = Action(request_id, item, "click", time_ms + (90_000 if is_late else 3_000))
            log.append(topics.actions, [encode_action(action)], time_ms=action.time_ms, partition=partition)
            expected[request_id, item, 1, 1.0] += is_late
        expected[request_id, item, 0, float(index % 3 == 0 and not is_late)] += 1
    return +expected


def examples(log: Log, topic: str) -> Counter[Example]:
    found: Counter[Example] = Counter()
    for partition in range(log.num_partitions(topic)):
        offset, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
        while offset < end and (records := log.read(topic, partition, offset, 1000)):
            for record in records:
                offset = record.offset + 1
                batch = decode_examples(record.value)
                labels = batch.labels["is_click"].tolist()
                found.update(zip(batch.request_ids, batch.item_ids.tolist(), batch.kinds.tolist(), labels, strict=True))
    return found

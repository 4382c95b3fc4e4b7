"""The demo's stream, joined online and replayed through Beam, gives the very same examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monolith_demo.dataset.kuairand import Requests, load_stream, load_users, load_videos
from monolith_demo.driver.history import write_history
from monolith_demo.driver.job_files import Services, write_job_files
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleKind
from monolith_py.io import Log, open_log
from monolith_py.io.codec import decode_examples
from monolith_py.io.log.topics import create_topics
from monolith_streaming.joiner.process import run_joiner
from monolith_streaming.replay.beam import run_replay

pytestmark = pytest.mark.slow

NUM_IMPRESSIONS = 8000
PARTITIONS = 2


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobConfig, Any]:
    """The job of a run whose log has the first part of KuaiRand as the demo writes it, live counters included, joined by the joiner."""
    folder = tmp_path_factory.mktemp("demo")
    where = Services(f"sqlite:///{folder}/log", f"sqlite:///{folder}/kv.db", *range(1, 6))
    job = write_job_files(Path(folder), where, counters=True).job
    job = job.model_copy(
        update={
            "log": job.log.model_copy(update={"partitions": PARTITIONS}),
            # Sampling, too; and windows that some plays outlast, so that there are retractions.
            "joiner": job.joiner.model_copy(update={"negative_rate": 0.5, "window_s": 60.0}),
        }
    )
    stream = load_stream().head(NUM_IMPRESSIONS)
    requests = Requests(stream, load_users(), load_videos())
    with closing(open_log(job.log.url)) as log:
        create_topics(log, job.log)
        write_history(log, job, stream, NUM_IMPRESSIONS, requests, lambda _: None)
    run_joiner(job, stop_at_end=True)
    return job, stream


def examples(log: Log, topic: str) -> Counter[Hashable]:
    """The multiset of the topic's examples, each with its features to the last bit."""
    found: Counter[Hashable] = Counter()
    for partition in range(PARTITIONS):
        for record in log.read(topic, partition, 0, 100_000):
            batch = decode_examples(record.value)
            for row in range(len(batch)):
                one = batch.slice(row, row + 1)
                found[
                    partition,
                    one.request_ids[0],
                    int(one.item_ids[0]),
                    int(one.kinds[0]),
                    int(one.times_ms[0]),
                    float(one.sample_rates[0]),
                    tuple((task, float(values[0])) for task, values in one.labels.items()),
                    tuple((name, tuple(column.fids.tolist())) for name, column in sorted(one.features.sparse.items())),
                    tuple((name, values.tobytes()) for name, values in sorted(one.features.dense.items())),
                ] += 1
    return found


def test_a_replay_of_the_demo_gives_the_online_joiner_s_examples_to_the_last_bit(joined: tuple[JobConfig, Any]) -> None:
    job, stream = joined
    start_ms, end_ms = int(stream.times_ms[0]), int(stream.times_ms[-1]) + 1
    result = run_replay(job, start_ms=start_ms, end_ms=end_ms, output=None)
    with closing(open_log(job.log.url)) as log:
        online, replayed = examples(log, "examples"), examples(log, result.topic)
    assert replayed == online
    assert set(online.values()) == {1}
    assert (result.impressions, result.actions) == (NUM_IMPRESSIONS, int(stream.num_actions.sum()))
    assert (result.malformed, result.actions_without_impression, result.records_present) == (0, 0, 0)
    kinds = Counter(kind for _, _, _, kind, *_ in online)  # type: ignore[misc]
    assert (kinds[ExampleKind.LABELLED], kinds[ExampleKind.RETRACTION]) == (result.labelled, result.retraction)
    # The stream has all that is to be compared: retractions, sampled negatives, both labels, counters that count.
    assert result.retraction > 50 and result.sampled_away > 1000
    assert len({dense for *_, dense in online}) > NUM_IMPRESSIONS / 4  # type: ignore[misc]


def test_a_part_replayed_alone_gives_its_part_of_the_examples(joined: tuple[JobConfig, Any]) -> None:
    job, stream = joined
    start_ms, end_ms = int(stream.times_ms[3000]), int(stream.times_ms[5000])
    result = run_replay(job, start_ms=start_ms, end_ms=end_ms, output="part")
    with closing(open_log(job.log.url)) as log:
        online, replayed = examples(log, "examples"), examples(log, "part")
    within: Counter[Any] = Counter({one: count for one, count in online.items() if start_ms <= one[4] < end_ms})  # type: ignore[index]
    assert replayed == within
    assert 1000 < result.labelled < 2000

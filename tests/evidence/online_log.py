"""Streams in a job's log: impressions and actions in the product's own encodings, in order of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from online_streams import OnlineStream

from monolith_py.config import JobConfig
from monolith_py.io import Log, open_log
from monolith_py.io.codec import encode_action, encode_impression
from monolith_py.io.log.topics import Topics, create_topics

_RECORDS_AT_ONCE = 2000


def write_log(job: JobConfig, stream: OnlineStream, requests: range) -> int:
    """Create the job's topics and append `requests` with all their actions; return the number of records.

    Each topic is in order of event time. The job must have one partition.
    """
    assert job.log.partitions == 1
    Path(job.log.url.removeprefix("sqlite:///")).mkdir(parents=True, exist_ok=True)
    topics = Topics.of(job.log)
    with closing(open_log(job.log.url)) as log:
        create_topics(log, job.log)
        shown = ((impression.time_ms, encode_impression(impression)) for impression in stream.impressions(requests))
        done = ((action.time_ms, encode_action(action)) for action in stream.actions(requests))
        return _append(log, topics.impressions, shown) + _append(log, topics.actions, done)


def _append(log: Log, topic: str, records: Iterable[tuple[int, bytes]]) -> int:
    total = 0
    for chunk in _chunks(records):
        log.append(topic, [value for _, value in chunk], time_ms=[time_ms for time_ms, _ in chunk])
        total += len(chunk)
    return total


def _chunks(records: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    rest = iter(records)
    while chunk := list(islice(rest, _RECORDS_AT_ONCE)):
        yield chunk

"""Bounds up to which records may be deleted, by topic and partition.

| topic | kept |
|---|---|
| `impressions`, `actions` | from where the joiner's state can be built again, by the store and by its last step in the log |
| `examples` | from that place on, and from the oldest checkpoint on, so that the trainer can go back to each one that is kept |
| `updates` | from the second newest checkpoint on, and from each one that a process reads: a replica may just be loading it |
| `dead_letters` | younger than `dead_letters_keep_s`, and nothing else |
| `dense_requests` | an hour: a trainer only counts them as they come |
| `verdicts` | an hour, and the newest one: it holds all that replicas need |
| `shadow_scores` | younger than `keep_s` |
| `forget_requests` | all of them |

A job with `log.model_prefix` has the topics of its own model alone: the first model's job decides about events and examples.

While the guard holds updates, they stay from the newest checkpoint before the hold on.

Of `examples` and `updates` the newest 1,000 records stay as well: a joiner compares its last step with them, a trainer finds its generation
there, and a replica may lag. Records of the first four topics that are younger than `keep_s` stay. Without a position of the joiner, or
without a checkpoint, nothing of their topics is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError, TopicMissing
from monolith_py.io import Kv, Log
from monolith_py.io.log.topics import Topics
from monolith_py.io.objects import is_object_url
from monolith_streaming.joiner.position import OpenPlace, StateKeys, decode_position
from monolith_streaming.joiner.tail import last_step

if TYPE_CHECKING:
    from monolith_py.training import Checkpoint, CheckpointMeta

# More than the records of one step of a joiner, and more than replicas lag by.
_TAIL_RECORDS = 1000
# Far longer than a trainer takes to answer.
_REQUESTS_KEEP_S = 3600.0


@dataclass(frozen=True)
class Bound:
    """Records of one partition: [start, before) may be deleted, [before, end) stay because of `reason`."""

    topic: str
    partition: int
    start: int
    end: int
    before: int
    reason: str

    @property
    def num_deletable(self) -> int:
        """Return the number of offsets that may be deleted."""
        return self.before - self.start


def safe_bounds(job: JobConfig, log: Log, kv: Kv, now_ms: int, keep_s: float | None = None) -> list[Bound]:
    """Return the bound of each partition of all topics; `keep_s` replaces that of the job.

    Raises:
        LogError: a topic is missing, or the log cannot be reached.
        KvError: the store cannot be reached.
        WireError: the joiner's position has another version.
    """
    topics = Topics.of(job.log)
    keep_ms = now_ms - round((job.retention.keep_s if keep_s is None else keep_s) * 1000)
    found = _checkpoints(job)
    checkpoints = [meta for meta, _ in found]
    bounds: list[Bound] = []
    if not job.log.model_prefix:  # the first model's job decides about the events and examples that all models share
        bounds += _bounds_of_events(job, log, kv, checkpoints, keep_ms)
    newest = sorted(checkpoints, key=lambda meta: meta.step)[-2:]
    newest += [meta for meta, is_read in found if is_read]  # a replica goes on from there once it has loaded it
    needs = [(meta.updates_offset, f"checkpoint of step {meta.step}") for meta in newest]
    needs += _needs_of_hold(log, topics, checkpoints)
    bounds.append(_bound(log, topics.updates, 0, [*_tail(log, topics.updates, 0, needs)], keep_ms))
    bounds.append(_age_bound(log, topics.dead_letters, now_ms, job.retention.dead_letters_keep_s, "dead_letters_keep_s"))
    bounds.append(_age_bound(log, topics.dense_requests, now_ms, _REQUESTS_KEEP_S, f"{_REQUESTS_KEEP_S:.0f} s"))
    bounds += [bound for topic in (topics.verdicts, topics.shadow_scores) for bound in _bounds_of_versions(log, topic, now_ms, keep_ms)]
    return bounds


def _bounds_of_events(job: JobConfig, log: Log, kv: Kv, checkpoints: Sequence[CheckpointMeta], keep_ms: int) -> Iterator[Bound]:
    """Yield the bounds of impressions, actions and examples."""
    topics = Topics.of(job.log)
    places = [_open_places(job, log, kv, partition) for partition in range(log.num_partitions(topics.examples))]
    for topic, field in ((topics.impressions, "impressions"), (topics.actions, "actions")):
        for partition in range(log.num_partitions(topic)):
            needs = [(getattr(place, field), reason) for place, reason in places[partition]]
            yield _bound(log, topic, partition, needs, keep_ms)
    for partition, of_joiner in enumerate(places):
        needs = [(meta.offsets.get(partition, (0, 0))[0], f"checkpoint of step {meta.step}") for meta in checkpoints]
        if needs:
            needs += [(place.examples, reason) for place, reason in of_joiner]
        yield _bound(log, topics.examples, partition, [*_tail(log, topics.examples, partition, needs)], keep_ms)


def _needs_of_hold(log: Log, topics: Topics, checkpoints: Sequence[CheckpointMeta]) -> Iterator[tuple[int, str]]:
    """Yield the places of the updates that guarded replicas need while the guard holds newer ones; `checkpoints`: newest first."""
    if not checkpoints:
        return
    from monolith_py.sync.verdicts import held_verdict, is_allowed  # loads torch

    if (verdict := held_verdict(log, topics.verdicts)) is not None:
        yield verdict.good_until, "held by the guard"
        good = (one for one in checkpoints if is_allowed(log, topics.updates, verdict, one.updates_offset))
        yield from ((one.updates_offset, f"checkpoint of step {one.step}, before a hold of the guard") for one in islice(good, 1))


def _bounds_of_versions(log: Log, topic: str, now_ms: int, keep_ms: int) -> Iterator[Bound]:
    """Yield the bound of a topic that a log of before has not: verdicts for an hour, the newest for good; shadow scores for `keep_s`."""
    try:
        end = log.end_offset(topic)
    except TopicMissing:
        return
    if topic.endswith("shadow_scores"):
        yield _bound(log, topic, 0, [(end, "end")], keep_ms)
        return
    bound = _age_bound(log, topic, now_ms, _REQUESTS_KEEP_S, f"{_REQUESTS_KEEP_S:.0f} s")
    yield replace(bound, before=max(bound.start, min(bound.before, end - 1)))


def _age_bound(log: Log, topic: str, now_ms: int, keep_s: float, limit: str) -> Bound:
    """Return the bound of a topic of one partition whose records are needed for `keep_s`."""
    start, end = log.start_offset(topic), log.end_offset(topic)
    before = log.offset_at(topic, 0, max(now_ms - round(keep_s * 1000), 0)) if end > start else start
    return Bound(topic, 0, start, end, min(max(before, start), end), f"younger than {limit}")


def checkpoint_metas(job: JobConfig) -> list[CheckpointMeta]:
    """Return the metas of the job's intact checkpoints, newest first.

    Raises:
        ObjectError: the object store cannot be reached.
    """
    return [meta for meta, _ in _checkpoints(job)]


def _checkpoints(job: JobConfig) -> list[tuple[CheckpointMeta, bool]]:
    """Return the metas of the intact checkpoints, newest first, and whether a process reads each."""
    location = job.trainer.checkpoint_dir
    if not is_object_url(location) and not any(Path(location).glob("step-*")):
        return []
    from monolith_py.training import open_checkpoints  # loads torch, which takes seconds

    store = open_checkpoints(job, "retention", SystemClock())
    found, leased = store.all(), store.leased()
    return [(meta, one.path.name in leased) for one in found if (meta := _meta(one)) is not None]


def _open_places(job: JobConfig, log: Log, kv: Kv, partition: int) -> list[tuple[OpenPlace, str]]:
    """Return the places from which the joiner's state can be built again, and who says so; none without a position."""
    examples = Topics.of(job.log).examples
    (value,) = kv.get_many([StateKeys(job.name, examples).position(partition)])
    if value is None:
        return []
    places = [(decode_position(value).progress.open, "open requests of the joiner")]
    # A joiner whose store was emptied goes by the log.
    last = last_step(log, examples, partition, 0)
    return places if last is None else [*places, (last.progress.open, "open requests of the joiner's last step")]


def _tail(log: Log, topic: str, partition: int, needs: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield from needs
    if needs:
        yield log.end_offset(topic, partition) - _TAIL_RECORDS, f"newest {_TAIL_RECORDS} records"


def _bound(log: Log, topic: str, partition: int, needs: Sequence[tuple[int, str]], keep_ms: int) -> Bound:
    start, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
    if not needs:
        return Bound(topic, partition, start, end, start, "no joiner's position or checkpoint")
    before, reason = min(needs)
    if before > start and (kept := log.offset_at(topic, partition, max(keep_ms, 0))) < before:
        before, reason = kept, "younger than keep_s"
    return Bound(topic, partition, start, end, min(max(before, start), end), reason)


def _meta(checkpoint: Checkpoint) -> CheckpointMeta | None:
    """Return the meta of a checkpoint; None if it is damaged, as nobody can start from it."""
    try:
        return checkpoint.meta
    except CheckpointError:
        return None

"""Guard of a job: a replica that answers nobody, applies each publication first and says how far the others may go.

After a publication the guard scores recent examples, for which users have got scores of good versions. If the new scores are worse by more
than the limits, the publication and all that follow are held: replicas stay at the last good version. The hold ends with the first later
publication that is good on the same examples, mostly of a trainer that was rolled back. Replicas then pass over what was held.
A version that cannot be judged ends no hold.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.schema import Schema
from monolith_py.errors import LogError, WireError
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.model.batch import Batch
from monolith_py.observe import metrics
from monolith_py.sync import Delta
from monolith_py.sync.verdicts import Verdict, encode_verdict, is_allowed, newest_record, newest_verdict
from monolith_serving.guard.judge import Judgement, judge
from monolith_serving.guard.observed_updates import ObservedUpdates
from monolith_serving.guard.recent_examples import RecentExamples, Score
from monolith_serving.log_limit import LogLimit
from monolith_serving.replica.checkpoint_loader import CheckpointLoader, LoadedCheckpoint
from monolith_serving.replica.device import Device
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.replica import Replica, UpdatesLog

_logger = logging.getLogger(__name__)


@dataclass
class _Place:
    """Place in the updates."""

    generation: int = 0
    generation_start: int = 0  # offset of its first delta
    held_generation: int = 0  # in which the hold began
    caught_up: int = 0  # offset from which on versions are judged: an older one may be worse than newer ones that users have seen


class Guard:
    """Judges versions. `replica.follow` drives it, in one thread."""

    def __init__(self, job: JobConfig, log: Log, device: Device, clock: Clock, *, accept: int | None = None) -> None:
        """Go on after the newest verdict; with `accept`, the offset from which on updates are held, take the present version for good.

        `accept`: the examples of before are forgotten, and until `guard.window_s` has passed, new ones are scored as they come: neither
        the scores of the held version nor those that users got are a reference. The verdicts after it say so to a guard that starts later.
        A hold from another offset on stays: so an option that is left in the arguments ends no later hold.
        """
        topics = Topics.of(job.log)
        self._job, self._log, self._topic, self._clock = job, log, topics.verdicts, clock
        self._updates = topics.updates
        self._tasks, self._scales = Schema.of(job).tasks, Schema.of(job).scales
        before = _last_verdict(log, self._topic)
        self._verdict = before if accept is None else _accepted(before, accept, log, topics.examples, clock.now_ms())
        until = dict(before.examples) if self._verdict.held else None
        self._examples = RecentExamples(job, log, clock, until, after=self._verdict.forgotten)
        self._note_own()
        self._is_appended, self._log_limit = True, LogLimit(clock)
        self._place = _Place(held_generation=_generation(before))
        # The file of freshness is that of the replicas.
        own = job.model_copy(update={"serving": job.serving.model_copy(update={"freshness_log": None, "guarded": False})})
        of_job = UpdatesLog.of(own, log, clock)
        log_of_updates = of_job.log, of_job.topic, of_job.requester
        updates = ObservedUpdates(*log_of_updates, loaded=self._loaded, reads=self._before_read, applied=self._applied)
        self.replica = Replica(own, log, device, clock, updates)
        if self._verdict.held:
            self._fill_from_before(CheckpointLoader(own, device, clock, partial(is_allowed, log, self._updates, self._verdict)))
        metrics.GUARD_HELD.set(self._verdict.held)

    @property
    def verdict(self) -> Verdict:
        """Return the newest verdict."""
        return self._verdict

    def _loaded(self, loaded: LoadedCheckpoint) -> None:
        """Judge a checkpoint that the replica has loaded, if no updates follow it."""
        place, generation, until = self._place, loaded.state.next_delta[0], loaded.updates_offset
        if generation != place.generation:
            # Where it has begun is not known: replicas go on from this checkpoint.
            place.generation, place.generation_start = generation, max(until - 1, 0)
        try:
            newest = newest_record(self._log, self._updates)
            place.caught_up = until if newest is None else newest.offset + 1
        except LogError as error:
            _logger.warning("the end of the updates cannot be read: %s", error)
        if until >= place.caught_up and until > self._verdict.good_until:
            self._say(self._judged(loaded.state), loaded.state.version, until, until - 1)

    def _applied(self, delta: Delta, start: int, end: int) -> None:
        """Judge the state after a publication, of which `delta` at offsets [start, end) was the last."""
        place = self._place
        if delta.generation != place.generation:
            place.generation, place.generation_start = delta.generation, start
        if delta.digest is None:
            return
        state = self.replica.state
        resume = place.generation_start if place.generation > place.held_generation else start
        if end > self._verdict.good_until and end >= place.caught_up:
            self._say(self._judged(state), state.version, end, resume)
            metrics.GUARD_DELAY_SECONDS.observe(max(self._clock.now_ms() - delta.published_ms, 0) / 1000)

    def _fill_from_before(self, loader: CheckpointLoader) -> None:
        """Read the examples from before the hold; those that nobody got a score for are scored by the newest good checkpoint."""

        @cache
        def good() -> ModelState | None:
            loaded = loader.load_newest()
            return None if loaded is None else loaded.state

        def score(batch: Batch) -> FloatArray:
            state = good()
            return np.full((batch.num_rows, len(self._tasks)), np.nan, np.float32) if state is None else state.predict(batch)

        self._examples.fill(score)

    def _fill(self, score: Score | None) -> None:
        """Add the examples that have come, unless updates are held: newer examples may be what spoilt the model."""
        if self._verdict.held:
            return
        self._note_own()
        try:
            self._examples.fill(score)
        except LogError as error:
            _logger.warning("recent examples cannot be read, going on with those before: %s", error)

    def _note_own(self) -> None:
        """Take the scores that users got for a reference, unless a version was accepted within `guard.window_s`."""
        accepted_ms, window_ms = self._verdict.accepted_ms, 1000 * self._job.guard.window_s
        self._examples.uses_served = not accepted_ms or self._clock.now_ms() >= accepted_ms + window_ms

    def _before_read(self) -> None:
        """Append a verdict that is pending; score new examples by the present state if it was judged good."""
        self._append()
        if self.replica.state.version == self._verdict.version:
            self._fill(self.replica.state.predict)

    def _judged(self, state: ModelState) -> Judgement:
        """Judge `state`, which is the reference of no example, unless there is no other one."""
        self._fill(None if self._examples.scored() is not None else state.predict)
        examples = self._examples.scored()
        judgement = judge(
            self._job.guard,
            dict(zip(self._tasks, self._scales, strict=True)),
            examples,
            None if examples is None else state.predict(examples.batch),
        )
        for one in judgement.figures:
            metrics.GUARD_NE_RATIO.labels(task=one.task).set(one.ne_ratio)
            metrics.GUARD_CALIBRATION_RATIO.labels(task=one.task).set(one.calibration)
        verdict = "held" if not judgement.is_good else "good" if judgement.is_judged else "unjudged"
        metrics.GUARD_VERDICTS.labels(verdict=verdict).inc()
        return judgement

    def _say(self, judgement: Judgement, version: str, until: int, resume: int) -> None:
        """Append the verdict on the state `version`, which has the updates before `until`; after a hold replicas go on at `resume`."""
        before = self._verdict
        if judgement.is_good and (judgement.is_judged or not before.held):
            refused = before.refused
            if before.held:
                refused = (*refused, (before.good_until, max(resume, before.good_until)))
                _logger.info("model %s is good, the hold ends: offsets %s of the updates are passed over", version, refused[-1])
            refused = tuple(one for one in refused if one[0] < one[1])
            verdict = replace(before, good_until=until, refused=refused, held=False, reason="")
        else:
            reason = "; ".join(judgement.faults) or before.reason
            if judgement.is_good and self._log_limit.allows("unjudged"):
                rule = "model %s: too few examples of before are left, only `monolith guard --accept %d` ends the hold"
                _logger.error(rule, version, before.good_until)
            if not before.held:
                _logger.error("model %s is held, updates from offset %d on: %s", version, before.good_until, reason)
                self._place.held_generation = self._place.generation
            verdict = replace(before, held=True, reason=reason)
        examples = before.examples if before.held and verdict.held else dict(self._examples.offsets)
        verdict = replace(verdict, version=version, time_ms=self._clock.now_ms(), examples=examples)
        self._verdict, self._is_appended = verdict, False
        metrics.GUARD_HELD.set(verdict.held)
        self._append()

    def _append(self) -> None:
        """Append the newest verdict unless the log has it."""
        if self._is_appended:
            return
        try:
            self._log.append(self._topic, [encode_verdict(self._verdict)], time_ms=self._verdict.time_ms)
            self._is_appended = True
        except LogError as error:
            if self._log_limit.allows("verdict"):
                _logger.warning("verdict on model %s not appended, will try again: %s", self._verdict.version, error)


def _last_verdict(log: Log, topic: str) -> Verdict:
    try:
        return newest_verdict(log, topic) or Verdict(0)
    except WireError as error:
        _logger.error("the newest verdict cannot be read, starting anew: %s", error)
        return Verdict(0)


def _accepted(before: Verdict, offset: int, log: Log, examples: str, now_ms: int) -> Verdict:
    """Return the verdict after the acceptance of the hold from `offset` on; `before` if there is no such hold."""
    if not before.held or before.good_until != offset:
        present = f"from offset {before.good_until} on" if before.held else "at no offset"
        _logger.warning("--accept %d ends no hold: updates are held %s", offset, present)
        return before
    ends = {partition: log.end_offset(examples, partition) for partition in range(log.num_partitions(examples))}
    return replace(before, held=False, reason="", accepted_ms=now_ms, forgotten=ends)


def _generation(verdict: Verdict) -> int:
    generation = verdict.version.partition(".")[0]
    return int(generation) if generation.isdecimal() else 0

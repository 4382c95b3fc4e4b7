"""The online training loop: batches from the log, steps, deltas to the replicas, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError
from monolith_py.io import Log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.io.log.topics import Topics
from monolith_py.io.retrying import RetryPolicy
from monolith_py.observe import metrics
from monolith_py.sync import PublishedModel, Publisher
from monolith_py.training import Checkpoint, CheckpointMeta, CheckpointSaving, IncrementChain, MemoryLimit, Retention, open_checkpoints
from monolith_streaming.trainer.example_rules import ExampleRules
from monolith_streaming.trainer.forget_requests import ForgetRequests
from monolith_streaming.trainer.handover import SourceParts, SourceStart, open_source
from monolith_streaming.trainer.held_updates import needed_by_guard
from monolith_streaming.trainer.learner import Learner
from monolith_streaming.trainer.shared_rows import published_tables
from monolith_streaming.trainer.start import RESUME, StartOptions, source_place, start_trainer

_logger = logging.getLogger(__name__)

# Longest wall-clock time from a checkpoint that could not be written to the next attempt.
_LONGEST_RETRY_S = 60.0


class OnlineTraining:
    """Reads `examples`, trains, publishes `updates`, and writes checkpoints with the position after the last example learnt.

    A restart from a checkpoint repeats exactly the examples after it, so the surviving state has learnt each example once.
    """

    def __init__(self, job: JobConfig, log: Log, clock: Clock, should_stop: Callable[[], bool], options: StartOptions = RESUME) -> None:
        """Restore the newest checkpoint; without one, write a first checkpoint, for replicas to start from.

        Raises:
            CheckpointError: `start_trainer` documents the causes.
            ClockStepped: the wall clock is behind the checkpoint's event time.
            StateMismatch: topic `examples` was made again since the checkpoint, and no option accepts it.
            LogError: a topic is missing or the log cannot be reached.
        """
        self._job, self._clock, self._should_stop = job, clock, should_stop
        self._checkpoints = open_checkpoints(job, "trainer", clock)
        self._log, self._topics = log, Topics.of(job.log)
        self._retry = RetryPolicy(clock, should_stop)
        self._dead_letters = DeadLetters(log, self._topics.dead_letters, clock)
        start = start_trainer(job, log, self._checkpoints, options, clock.now_ms())
        self.trainer, meta = start.trainer, start.meta
        log.num_partitions(self._topics.dense_requests)  # a missing topic fails here, not at each publish
        published = PublishedModel(
            published_tables(self.trainer.bags), self.trainer.export_dense, self.trainer.layout.identity(start.model_id)
        )
        self._model_id = start.model_id
        self._examples_topic = log.describe(self._topics.examples).id
        place = source_place(meta, self._topics.examples, self._examples_topic, options)
        self._publisher = Publisher(log, self._topics, published, job.sync, clock, generation=start.generation)
        self._learner = Learner(self.trainer, self._note_step, self._put_aside)
        rules = ExampleRules.of(job, clock)
        rules.check_clock(self.trainer.watermark_ms)
        parts = SourceParts(log, self._topics.examples, self._dead_letters, clock, rules, options.accept_hole)
        self._source = open_source(parts, options.source, SourceStart(place.positions, meta.source, place.steps) if meta else None)
        self._memory = MemoryLimit.of(self.trainer.bags, clock, job.trainer.memory_limit_bytes)
        self._imported = dict(start.imported)
        self._saved_batches = meta.step if meta and meta.imported == self._imported else -1
        self._forgets = ForgetRequests(log, self._topics.forget_requests, self.trainer.bags, clock, meta.forget_offset if meta else 0)
        self._chain = IncrementChain(job.trainer.checkpoint_full_interval)
        self._saving: CheckpointSaving | None = None
        self._saved_meta: CheckpointMeta | None = None
        self._saving_since_s = 0.0
        # Replicas of a changed job, and those that cannot follow this generation, need a checkpoint of it.
        self._save_due_s = clock.monotonic_s() + (0 if start.changes else job.trainer.checkpoint_interval_s)
        if meta is not None and not self._publisher.descends:
            self._ask_for_checkpoint()
        self._report_due_s = clock.monotonic_s()
        self._reported_examples = self.trainer.num_examples
        self._forget()
        if meta is None:
            self._save_new_model()

    def run(self, *, stop_at_end: bool) -> None:
        """Train until `should_stop`, with `stop_at_end` up to the current end of the log; then write a checkpoint."""
        ends = self._source.ends() if stop_at_end else None
        learning = True
        while not self._should_stop():
            # A log may end in offsets without a record (Kafka's), so an empty read ends the loop too.
            if ends is not None and (not learning or self._source.has_reached(ends)):
                break
            learning = self.step()
        self._report()
        self.checkpoint()
        self._publisher.close()

    def step(self) -> bool:
        """Learn one batch, if there is one, and return whether there was; publish and save if due."""
        config = self._job.trainer
        self._forget()
        size = self.trainer.optimizer.batch_limit(config.batch_size)
        examples = self._source.next_batch(size, config.linger_s, self._should_stop)
        if examples is not None:
            started_s = self._clock.monotonic_s()
            self._learner.learn(self._forgets.strip(examples))
            metrics.STEP_DURATION_SECONDS.observe(self._clock.monotonic_s() - started_s)
        self._memory.check()
        self._publisher.maybe_publish(self.trainer.watermark_ms)
        if self._publisher.take_checkpoint_request():
            _logger.info("a replica has asked for a checkpoint")
            self._ask_for_checkpoint()
        try:
            self._advance_checkpoint()
        except CheckpointError as error:
            self._note_failed_checkpoint(error)
        now_s = self._clock.monotonic_s()
        if now_s >= self._report_due_s:
            self._report_due_s = now_s + config.report_interval_s
            self._report()
        return examples is not None

    def checkpoint(self) -> None:
        """Publish all pending changes and write a checkpoint, unless nothing was learnt since the last one; wait until it is on disk."""
        if self._saving is not None and self._saving.is_frozen:
            self._settle_checkpoint()
        if self.trainer.num_batches == self._saved_batches:
            return
        if self._saving is None:
            self._begin_checkpoint()
        self._freeze_checkpoint(self._publish_all())
        self._settle_checkpoint()

    def _save_new_model(self) -> None:
        """Write the first checkpoint, and only then publish: a start that finds updates and no checkpoint is refused."""
        self._begin_checkpoint()
        self._freeze_checkpoint(self._log.end_offset(self._topics.updates))
        self._settle_checkpoint()
        self._publish_all()

    def _publish_all(self) -> int:
        """Publish all pending changes and return the end offset of the updates."""
        return self._retry.run(lambda: self._publisher.flush(self.trainer.watermark_ms))

    def _ask_for_checkpoint(self) -> None:
        """Make a checkpoint due now, also if nothing was learnt since the last one: it ends at a later place of the updates."""
        self._saved_batches = -1
        self._save_due_s = self._clock.monotonic_s()

    def _advance_checkpoint(self) -> None:
        """Begin a checkpoint if it is due, or advance the pending one; never wait for the disk."""
        if self._saving is None:
            if self._clock.monotonic_s() >= self._save_due_s and self.trainer.num_batches != self._saved_batches:
                self._begin_checkpoint()
        elif self._saving.is_written:
            self._settle_checkpoint()
        elif self._saving.is_copied and not self._saving.is_frozen:
            self._freeze_checkpoint(self._publish_all())

    def _note_failed_checkpoint(self, error: CheckpointError) -> None:
        """Go on learning and publishing; the next attempt is due after `checkpoint_interval_s`, or a minute if that is longer."""
        self._saving = None
        pause_s = min(self._job.trainer.checkpoint_interval_s, _LONGEST_RETRY_S)
        self._save_due_s = self._clock.monotonic_s() + pause_s
        metrics.CHECKPOINT_FAILURES.inc()
        _logger.error("no checkpoint, next attempt in %.0f s: %s", pause_s, error)

    def _begin_checkpoint(self) -> None:
        self._saving_since_s = self._clock.monotonic_s()
        self._save_due_s = self._saving_since_s + self._job.trainer.checkpoint_interval_s
        self._saving = CheckpointSaving(self._checkpoints, self.trainer, Retention.of(self._job.trainer, self._needed), self._chain)

    def _needed(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        return needed_by_guard(self._job, self._log, checkpoints)

    def _freeze_checkpoint(self, updates_offset: int) -> None:
        """Freeze the pending checkpoint at the current state; replicas that start from it read on at `updates_offset`."""
        assert self._saving is not None
        generation, next_seq = self._publisher.next_delta
        self._saved_meta = CheckpointMeta(
            job=self._job.name,
            step=self.trainer.num_batches,
            examples_trained=self.trainer.num_examples,
            generation=generation,
            next_seq=next_seq,
            updates_offset=updates_offset,
            offsets=self._source.positions,
            steps=self._source.steps,
            examples_topic=self._examples_topic,
            watermark_ms=self.trainer.watermark_ms,
            saved_ms=self._clock.now_ms(),
            quality=tuple(self.trainer.quality.report()),
            model_id=self._model_id,
            source=self._source.meta,
            parent=self._publisher.parent_version,
            digest=str(self._publisher.digest or ""),
            forget_offset=self._forgets.offset,
            imported=self._imported,
        )
        started_s = self._clock.monotonic_s()
        self._saving.freeze(self._saved_meta)
        metrics.CHECKPOINT_PAUSE_SECONDS.set(self._clock.monotonic_s() - started_s)

    def _settle_checkpoint(self) -> None:
        """Wait until the frozen checkpoint is on disk, and report it."""
        assert self._saving is not None and self._saved_meta is not None
        saving, meta, self._saving = self._saving, self._saved_meta, None
        checkpoint = saving.wait()
        self._saved_batches = meta.step
        duration_s = self._clock.monotonic_s() - self._saving_since_s
        metrics.CHECKPOINT_DURATION_SECONDS.set(duration_s)
        metrics.CHECKPOINT_SAVED_TIMESTAMP_SECONDS.set(meta.saved_ms / 1000)
        _logger.info("checkpoint %s: %d examples, offsets %s, %.2f s", checkpoint, meta.examples_trained, meta.offsets, duration_s)

    def _forget(self) -> None:
        """Carry out new requests to forget rows; the next checkpoint is without these rows, also if nothing is learnt."""
        if self._forgets.take():
            self._saved_batches = -1

    def _note_step(self, examples: ExampleBatch, probabilities: FloatArray) -> None:
        self._publisher.note_step(self.trainer.bags.rows_touched, self._source.newest_event_ms)

    def _put_aside(self, example: ExampleBatch, row: int, reason: str) -> None:
        _logger.warning("example of request %s put aside: %s", example.request_ids[0], reason)
        self._dead_letters.put(*self._source.origin_of(row), encode_examples(example), reason)

    def _report(self) -> None:
        """Set the gauges; log the figures of quality if there are new examples, their faults as warnings."""
        for partition, lag in self._source.lags().items():
            metrics.EXAMPLE_LAG_RECORDS.labels(partition=str(partition)).set(lag)
        self._source.report()
        figures = self.trainer.report()
        if self.trainer.num_examples == self._reported_examples:
            return
        self._reported_examples = self.trainer.num_examples
        for quality in figures:
            _logger.info("%s", quality)
            if fault := quality.fault():
                _logger.warning("%s, %s: %s", quality.task, quality.source, fault)

"""The online training loop: batches from the log, steps, deltas to the replicas, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import MonolithError, PoisonedBatch, WireError
from monolith_py.io import Log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.io.log.topics import Topics
from monolith_py.io.retrying import RetryPolicy
from monolith_py.observe import metrics
from monolith_py.sync import DenseRequests, Publisher, next_generation
from monolith_py.training import Checkpoint, CheckpointMeta, CheckpointSaving, Trainer, restore_checkpoint
from monolith_streaming.trainer.source import ExampleSource

_logger = logging.getLogger(__name__)

_LAG_INTERVAL_S = 5.0


class OnlineTraining:
    """A trainer between two logs: it reads `examples`, publishes `updates`, and leaves checkpoints that say what it has learnt.

    Restarting from a checkpoint repeats exactly the examples after it, so each example counts once in whatever state survives.
    """

    def __init__(self, job: JobConfig, log: Log, clock: Clock, should_stop: Callable[[], bool]) -> None:
        """Go on from the newest checkpoint; where there is none, begin, and write one that replicas can start from.

        Raises:
            CheckpointError: the newest checkpoint is of another job or of other settings.
            LogError: a topic is missing or the log cannot be reached.
        """
        self._job, self._clock, self._should_stop = job, clock, should_stop
        self._directory = Path(job.trainer.checkpoint_dir)
        self._log, self._topics = log, Topics.of(job.log)
        self._retry = RetryPolicy(clock, should_stop)
        self._dead_letters = DeadLetters(log, self._topics.dead_letters, clock)
        self.trainer = Trainer(job)
        checkpoint = Checkpoint.newest(self._directory)
        meta = restore_checkpoint(checkpoint, self.trainer, job.name) if checkpoint else None
        if meta:
            _logger.info("restored %s: %d examples learnt", checkpoint, meta.examples_trained)
        generation = next_generation(log, self._topics.updates, meta.generation if meta else 0)
        tables, updates = self.trainer.bags.tables, self._topics.updates
        log.num_partitions(self._topics.dense_requests)  # a topic that is missing stops the start, not one publish after the other
        requests, dense = DenseRequests(log, self._topics.dense_requests), self.trainer.export_dense
        self._publisher = Publisher(log, updates, tables, dense, job.sync, clock, requests=requests, generation=generation)
        self._source = ExampleSource(log, self._topics.examples, meta.offsets if meta else {}, self._dead_letters, clock)
        self._saved_batches = meta.step if meta else -1
        self._saving: CheckpointSaving | None = None
        self._saved_meta: CheckpointMeta | None = None
        self._saving_since_s = 0.0
        self._save_due_s = clock.monotonic_s() + job.trainer.checkpoint_interval_s
        self._lag_due_s = clock.monotonic_s()
        if meta is None:
            self.checkpoint()

    def run(self, *, stop_at_end: bool) -> None:
        """Train until told to stop, with `stop_at_end` until all that is in the log now is learnt; then write a checkpoint."""
        ends = self._source.ends() if stop_at_end else None
        learning = True
        while not self._should_stop():
            # A log may end in offsets without a record (Kafka's), so an empty read ends it too.
            if ends is not None and (not learning or self._source.has_reached(ends)):
                break
            learning = self.step()
        self.checkpoint()
        self._publisher.close()

    def step(self) -> bool:
        """Learn one batch and return whether there was one; publish and save where due."""
        config = self._job.trainer
        size = self.trainer.optimizer.batch_limit(config.batch_size)
        examples = self._source.next_batch(size, config.linger_s, self._should_stop)
        if examples is not None:
            started_s = self._clock.monotonic_s()
            self._learn(examples)
            metrics.STEP_DURATION_SECONDS.observe(self._clock.monotonic_s() - started_s)
        self._publisher.maybe_publish(self.trainer.watermark_ms)
        self._tend_checkpoint()
        now_s = self._clock.monotonic_s()
        if now_s >= self._lag_due_s:
            self._lag_due_s = now_s + _LAG_INTERVAL_S
            self._report_lag()
        return examples is not None

    def checkpoint(self) -> None:
        """Publish what is pending and write a checkpoint, unless nothing was learnt since the last; return when it is there."""
        if self._saving is not None and self._saving.is_frozen:
            self._settle_checkpoint()
        if self.trainer.num_batches == self._saved_batches:
            return
        if self._saving is None:
            self._begin_checkpoint()
        self._freeze_checkpoint()
        self._settle_checkpoint()

    def _tend_checkpoint(self) -> None:
        """Begin a checkpoint when it is due, and bring one that is under way on, without waiting for it."""
        if self._saving is None:
            if self._clock.monotonic_s() >= self._save_due_s and self.trainer.num_batches != self._saved_batches:
                self._begin_checkpoint()
        elif self._saving.is_written:
            self._settle_checkpoint()
        elif self._saving.is_copied and not self._saving.is_frozen:
            self._freeze_checkpoint()

    def _begin_checkpoint(self) -> None:
        self._saving_since_s = self._clock.monotonic_s()
        self._save_due_s = self._saving_since_s + self._job.trainer.checkpoint_interval_s
        self._saving = CheckpointSaving(self._directory, self.trainer, keep=self._job.trainer.checkpoints_kept)

    def _freeze_checkpoint(self) -> None:
        """Let the checkpoint under way be of this moment."""
        assert self._saving is not None
        # Replicas that start from this checkpoint read on from `updates_offset`: all that the tables hold must lie before it.
        updates_offset = self._retry.run(lambda: self._publisher.flush(self.trainer.watermark_ms))
        generation, next_seq = self._publisher.next_delta
        self._saved_meta = CheckpointMeta(
            job=self._job.name,
            step=self.trainer.num_batches,
            examples_trained=self.trainer.num_examples,
            generation=generation,
            next_seq=next_seq,
            updates_offset=updates_offset,
            offsets=self._source.positions,
            watermark_ms=self.trainer.watermark_ms,
            saved_ms=self._clock.now_ms(),
        )
        started_s = self._clock.monotonic_s()
        self._saving.freeze(self._saved_meta)
        metrics.CHECKPOINT_PAUSE_SECONDS.set(self._clock.monotonic_s() - started_s)

    def _settle_checkpoint(self) -> None:
        """Wait until the checkpoint that is frozen is on the disk, and tell of it."""
        assert self._saving is not None and self._saved_meta is not None
        saving, meta, self._saving = self._saving, self._saved_meta, None
        checkpoint = saving.wait()
        self._saved_batches = meta.step
        self.trainer.report()
        duration_s = self._clock.monotonic_s() - self._saving_since_s
        metrics.CHECKPOINT_DURATION_SECONDS.set(duration_s)
        metrics.CHECKPOINT_SAVED_TIMESTAMP_SECONDS.set(meta.saved_ms / 1000)
        _logger.info("checkpoint %s: %d examples, offsets %s, %.2f s", checkpoint, meta.examples_trained, meta.offsets, duration_s)

    def _learn(self, examples: ExampleBatch) -> None:
        """Learn a batch; where it is poisoned, learn its halves, so that only the bad examples are put aside."""
        try:
            self.trainer.step(examples)
        except (PoisonedBatch, WireError) as error:
            if not all(bool(torch.isfinite(value).all()) for value in self.trainer.model.parameters()):
                raise MonolithError(f"the model itself is not finite after {self.trainer.num_batches} batches: {error}") from None
            metrics.BATCHES_SKIPPED.labels(reason=type(error).__name__).inc()
            if len(examples) == 1:
                _logger.warning("example of request %s put aside: %s", examples.request_ids[0], error)
                self._dead_letters.put(self._topics.examples, *self._last_position(), encode_examples(examples), str(error))
                return
            middle = len(examples) // 2
            self._learn(examples.slice(0, middle))
            self._learn(examples.slice(middle, len(examples)))
        else:
            self._publisher.note_step(self.trainer.bags.rows_touched)

    def _last_position(self) -> tuple[int, int]:
        """Return (partition, offset) about where the source is: the bad example lies in or shortly before it."""
        partition, (offset, _) = next(iter(self._source.positions.items()))
        return partition, offset

    def _report_lag(self) -> None:
        positions = self._source.positions
        for partition, end in self._source.ends().items():
            metrics.EXAMPLE_LAG_RECORDS.labels(partition=str(partition)).set(end - positions[partition][0])

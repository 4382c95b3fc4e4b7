"""A backtest: the job's own trainer over a timeline, with every request scored before its labels are learnt.

Letters: N scored candidates, T tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.config import JobConfig
from monolith_py.data.class_labels import strongest
from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.data.label_bits import LabelBits
from monolith_py.errors import ConfigError
from monolith_py.model.batch import make_batch
from monolith_py.training import Trainer
from monolith_streaming.backtest.arm_model import ArmModel
from monolith_streaming.backtest.options import BacktestOptions
from monolith_streaming.backtest.result import BacktestResult
from monolith_streaming.backtest.timeline import Candidates, Slice
from monolith_streaming.trainer.learner import Learner

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Progress of a backtest after a slice."""

    time_ms: int  # event time reached
    num_examples: int  # learnt
    num_scored: int  # candidates


def run_backtest(
    job: JobConfig, timeline: Iterable[Slice], options: BacktestOptions, note: Callable[[Progress], None] | None = None
) -> BacktestResult:
    """Learn the timeline with a new trainer of `job`, score its requests with every arm, and return scores and final labels.

    `note` is called after each slice. Nothing is written to the job's log, store or checkpoints. Two runs over one timeline give the same
    bits with the same number of threads.

    Raises:
        ConfigError: no candidate was scored, or none of the tasks has a positive and a negative among them.
        ModelNotFinite: the model is poisoned.
    """
    return Backtest(job, options).run(timeline, note)


class Backtest:
    """One run: `trainer` learns the history before `start_ms` in full batches, then the examples of each slice after scoring its requests.

    Scores are those of the trainer's fp32 weights, without the rounding of published rows to `sync.encoding` and without the delay of
    publishing.
    """

    def __init__(self, job: JobConfig, options: BacktestOptions) -> None:
        self.trainer = Trainer(job)
        self._options, self._batch_size, self._bits = options, job.trainer.batch_size, LabelBits.of(job)
        self._learner = Learner(self.trainer, self._learnt, self._put_aside)
        self._pending: list[ExampleBatch] = []
        self._arms: list[ArmModel] | None = None  # None in the history
        self._scored: list[Candidates] = []
        self._scores: dict[str, list[FloatArray]] = {arm.name: [] for arm in options.arms}
        self._known: list[tuple[Int64Array, npt.NDArray[np.uint64]]] = []
        self._progressive: list[tuple[FloatArray, FloatArray]] = []  # labels and probabilities of the trainer's steps after the start
        self._num_put_aside = self._num_refused = self._num_history = 0
        self._num_scored = 0

    def run(self, timeline: Iterable[Slice], note: Callable[[Progress], None] | None = None) -> BacktestResult:
        """Run over the whole timeline, once."""
        options = self._options
        for one in timeline:
            if self._arms is None and one.start_ms >= options.start_ms:
                self._start()
            self._known.append((one.known_numbers, one.known_labels))
            self._num_refused += one.num_refused
            if self._arms is not None:
                self._score(self._arms, one)
            if options.end_ms is None or one.start_ms < options.end_ms:
                self._learn(one.examples, waits=options.batches == "even" or self._arms is None)
            if note is not None:
                note(Progress(one.end_ms, self.trainer.num_examples, self._num_scored))
        return self._result()

    def _start(self) -> None:
        """End the history: learn what is pending, then start the arms."""
        self._learn(None, waits=self._options.batches == "even")
        self._num_history = self.trainer.num_examples
        self._arms = [ArmModel(arm, self.trainer) for arm in self._options.arms]
        for arm in self._arms:
            arm.start(self._options.start_ms)

    def _score(self, arms: list[ArmModel], one: Slice) -> None:
        for arm in arms:
            arm.advance(one.start_ms)
        if one.candidates is None:
            return
        batch = make_batch(one.candidates.features, self.trainer.schema)
        self._scored.append(one.candidates)
        self._num_scored += len(one.candidates.request_ids)
        for arm in arms:
            self._scores[arm.arm.name].append(arm.predict(batch))

    def _learn(self, examples: ExampleBatch | None, *, waits: bool) -> None:
        """Learn the pending examples and `examples` in batches of the online trainer; with `waits` leave those that fill no batch."""
        if examples is not None:
            self._pending.append(examples)
        num_pending = sum(map(len, self._pending))
        if not num_pending:
            return
        size = self.trainer.optimizer.batch_limit(self._batch_size)
        if waits and num_pending < size:
            return
        pending, start = ExampleBatch.concat(self._pending), 0
        while len(pending) - start >= size or (start < len(pending) and not waits):
            stop = min(start + size, len(pending))
            self._learner.learn(pending.slice(start, stop), start)
            start = stop
            size = self.trainer.optimizer.batch_limit(self._batch_size)
        self._pending = [pending.slice(start, len(pending))] if start < len(pending) else []

    def _learnt(self, examples: ExampleBatch, probabilities: FloatArray) -> None:
        if self._arms is not None:
            labelled = examples.kinds == ExampleKind.LABELLED
            schema = self.trainer.schema
            labels = strongest(np.stack([examples.labels[task] for task in schema.tasks], axis=1), schema.settings)
            self._progressive.append((labels[labelled], probabilities[labelled]))

    def _put_aside(self, example: ExampleBatch, row: int, reason: str) -> None:
        _logger.warning("example of request %s passed over: %s", example.request_ids[0], reason)
        self._num_put_aside += 1

    def _result(self) -> BacktestResult:
        start_ms, end_ms, tasks = self._options.start_ms, self._options.end_ms, self.trainer.schema.tasks
        if not self._scored:
            raise ConfigError(f"start and end must have a valid impression in between, got none in [{start_ms}, {end_ms}) ms")
        of_all = self._final_labels(np.concatenate([one.numbers for one in self._scored]))
        labels = {task: of_all[:, place] for place, task in enumerate(tasks)}
        num, positives = self._num_scored, {task: int((values > 0).sum()) for task, values in labels.items()}
        if not any(0 < of_task < num for of_task in positives.values()):
            raise ConfigError(f"a task must have a positive and a negative among the scored candidates, got {positives} positives of {num}")
        empty = np.zeros((0, len(tasks)), np.float32)
        progressive = [np.concatenate([empty, *parts]) for parts in zip(*self._progressive, strict=True)] or [empty, empty]
        return BacktestResult(
            request_ids=tuple(request_id for one in self._scored for request_id in one.request_ids),
            item_ids=np.concatenate([one.item_ids for one in self._scored]),
            user_ids=np.concatenate([one.user_ids for one in self._scored]),
            times_ms=np.concatenate([one.times_ms for one in self._scored]),
            labels=labels,
            scores={name: np.concatenate(parts) for name, parts in self._scores.items()},
            scales=dict(zip(tasks, self.trainer.schema.scales, strict=True)),
            num_history=self._num_history,
            num_examples=self.trainer.num_examples,
            num_put_aside=self._num_put_aside,
            num_refused=self._num_refused,
            progressive_labels=progressive[0],
            progressive_scores=progressive[1],
        )

    def _final_labels(self, numbers: Int64Array) -> FloatArray:
        """Return the final labels of the candidates `numbers`, float32 (N, T): the greatest of their emissions, and the strongest class."""
        schema, known = self.trainer.schema, np.concatenate([part[0] for part in self._known])
        bits = np.concatenate([part[1] for part in self._known])
        labels = np.full((max(int(numbers.max()), int(known.max(initial=0))) + 1, len(schema.tasks)), -1, np.float32)
        for place in range(len(schema.tasks)):
            np.maximum.at(labels[:, place], known, self._bits.values(bits, place))
        assert (labels[numbers] >= 0).all(), "every scored candidate has an emission"
        return strongest(labels[numbers], schema.settings)

"""Quality of a job while it trains: figures of the last predictions of each task.

Served predictions were made by a replica at request time; they are what users got, and each model has its own figures. Predictions before
learning were made by the trainer just before it learnt the example. They are biased where labels close early: the positives of a request
are learnt before its negatives are predicted.

A negative that was sampled at rate r counts 1 / r times. A retraction takes that back and counts the candidate once with its new labels.
For predictions before learning it takes back the prediction of the retraction, as the first one is not known any more.

Letters: B examples, T tasks, n predictions of a window.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monolith_py.config import TaskConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.data.served import ServedModel
from monolith_py.training.metrics import auc, calibration, class_figures, label_rate, normalized_entropy, regression_errors

# Predictions of a window: the standard error of an AUC is about 0.005 at a label rate of 5 %.
WINDOW = 20_000
# Models with a window of their own, by arm and generation: those of a roll-out and of an experiment. The least recent gives way.
MAX_MODELS = 8
# A calibration outside of this range is far from 1; with fewer positives it is noise (its standard error is 1 / sqrt(positives)).
CALIBRATION_RANGE = (0.8, 1.25)
_POSITIVES_FOR_CALIBRATION = 200
# At a label rate of 0.5 % so many examples have no positive once in 20,000 windows.
_EXAMPLES_WITHOUT_POSITIVES = 2000


class Source(NamedTuple):
    """Maker of predictions: the trainer before learning, or a served model."""

    kind: str  # "served" or "before learning"
    arm: str = ""
    generation: str = ""

    def __str__(self) -> str:
        return self.kind if self.kind == BEFORE_LEARNING.kind else f"{self.kind} by {self.arm or '?'} {self.generation or '?'}"


BEFORE_LEARNING = Source("before learning")


@dataclass(frozen=True)
class Quality:
    """Figures of the last predictions of one task; NaN for a figure that the window does not give."""

    task: str
    source: Source
    num_predictions: int
    num_positives: float  # sum of the weights of positives
    auc: float
    ne: float  # normalised entropy
    calibration: float  # mean prediction / mean label
    label_rate: float
    # Of a regression, whose label rate is the mean label.
    rmse: float = math.nan
    mae: float = math.nan
    r2: float = math.nan
    # Of all classes of a multiclass task together; each class has its own figures as a binary task.
    logloss: float = math.nan
    accuracy: float = math.nan

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Quality:
        """Return the figures in the result of `document`.

        Raises:
            TypeError, KeyError: the document is of another form.
        """
        fields: dict[str, Any] = {name: math.nan if value is None else value for name, value in document.items()}
        source = Source(*(fields.pop(name) for name in ("kind", "arm", "generation")))
        return Quality(source=source, **fields)

    def document(self) -> dict[str, Any]:
        """Return the figures as a JSON document, None for NaN."""
        fields = {field.name: getattr(self, field.name) for field in dataclass_fields(self) if field.name != "source"}
        cleaned = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}
        return {**self.source._asdict(), **cleaned}

    def fault(self) -> str | None:
        """Return the fault that the figures show, None without one.

        >>> Quality("click", BEFORE_LEARNING, 5000, 0.0, math.nan, math.nan, math.nan, 0.0).fault()
        'no positive label in 5,000 predictions'
        """
        if self.num_predictions >= _EXAMPLES_WITHOUT_POSITIVES and self.num_positives <= 0:
            return f"no positive label in {self.num_predictions:,} predictions"
        if not math.isnan(self.rmse) or not math.isnan(self.logloss):
            return None  # a mean of logarithms is below the mean
        low, high = CALIBRATION_RANGE
        if self.num_positives >= _POSITIVES_FOR_CALIBRATION and not low <= self.calibration <= high:
            return f"calibration {self.calibration:.2f} is far from 1"
        return None

    def __str__(self) -> str:
        if not math.isnan(self.rmse):
            figures = f"RMSE {self.rmse:.4g}, MAE {self.mae:.4g}, R2 {self.r2:.4f}, mean label {self.label_rate:.4g}"
        elif not math.isnan(self.logloss):
            figures = f"log loss {self.logloss:.4f}, accuracy {self.accuracy:.4f}"
        else:
            figures = self._of_probabilities()
        return f"{self.task}, {self.source}: {figures} of {self.num_predictions:,} predictions"

    def _of_probabilities(self) -> str:
        return f"AUC {self.auc:.4f}, NE {self.ne:.4f}, calibration {self.calibration:.3f}, label rate {self.label_rate:.4f}"


class QualityWindow:
    """The last predictions of one task: at least `size` of them, in whole batches, once there are as many.

    >>> window = QualityWindow(100)
    >>> window.add(np.array([0, 1], np.float32), np.array([0.25, 0.5], np.float32), np.ones(2, np.float32))
    >>> window.quality("click", BEFORE_LEARNING).auc
    1.0
    """

    def __init__(self, size: int, *, is_regression: bool = False) -> None:
        self._size, self._is_regression = size, is_regression
        self._batches: deque[tuple[FloatArray, FloatArray, FloatArray]] = deque()
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, labels: FloatArray, probabilities: FloatArray, weights: FloatArray) -> None:
        """Add a batch: labels, probabilities and weights, float32 (n,)."""
        self._batches.append((labels, probabilities, weights))
        self._num += len(labels)
        while self._num - len(self._batches[0][0]) >= self._size:
            self._num -= len(self._batches.popleft()[0])

    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return labels, scores and weights of the window, float32 (n,); there must be a prediction."""
        labels, scores, weights = (np.concatenate(parts) for parts in zip(*self._batches, strict=True))
        return labels, scores, weights

    def quality(self, task: str, source: Source) -> Quality:
        """Return the figures of the window."""
        if not self._num:
            return Quality(task, source, 0, 0.0, math.nan, math.nan, math.nan, math.nan)
        labels, scores, weights = self.arrays()
        if self._is_regression:
            figures = math.nan, math.nan, calibration(labels, scores, weights), label_rate(labels, weights)
            num_positives = float(weights @ (labels > 0))
            return Quality(task, source, self._num, num_positives, *figures, *regression_errors(labels, scores, weights))
        return Quality(
            task,
            source,
            self._num,
            float(weights @ labels),
            auc(labels, scores, weights),
            normalized_entropy(labels, scores, weights),
            calibration(labels, scores, weights),
            label_rate(labels, weights),
        )


class QualityMonitor:
    """Windows of each task: predictions before learning, and those of each served model."""

    def __init__(self, tasks: Sequence[str], size: int = WINDOW, settings: Sequence[TaskConfig] = ()) -> None:
        """Make the windows of labels `tasks`; `settings`: those of the tasks unless all are binary."""
        self._tasks, self._size = tuple(tasks), size
        self._regressions = {task.name for task in settings if task.kind == "regression"}
        self._multiclass = [task for task in settings if task.kind == "multiclass"]
        self._learnt = self._new_windows()
        self._served: OrderedDict[Source, dict[str, QualityWindow]] = OrderedDict()  # the least recent first

    def add(self, examples: ExampleBatch, labels: FloatArray, probabilities: FloatArray) -> None:
        """Add B examples with the trainer's predictions of them; labels and probabilities, float32 (B, T)."""
        counted = _Counted.of(examples, labels)
        for place, window in enumerate(self._learnt.values()):
            counted.add_to(window, place, probabilities[:, place])
        served = examples.served
        if served is None:
            return
        for source, rows in _rows_by_source(served.models, served.model_codes):
            windows = self._windows_of(source)
            for place, task in enumerate(self._tasks):
                if task in served.scores:
                    counted.add_to(windows[task], place, served.scores[task], rows)

    def report(self) -> list[Quality]:
        """Return the figures of each task: served ones, the most recent model first, then those before learning."""
        sources = [*reversed(self._served.items()), (BEFORE_LEARNING, self._learnt)]
        found = [windows[task].quality(task, source) for task in self._tasks for source, windows in sources]
        found += [_of_classes(task, source, windows) for task in self._multiclass for source, windows in sources]
        return [quality for quality in found if quality.num_predictions]

    def _new_windows(self) -> dict[str, QualityWindow]:
        return {task: QualityWindow(self._size, is_regression=task in self._regressions) for task in self._tasks}

    def _windows_of(self, source: Source) -> dict[str, QualityWindow]:
        windows = self._served.get(source)
        if windows is None:
            windows = self._served[source] = self._new_windows()
            if len(self._served) > MAX_MODELS:
                self._served.popitem(last=False)
        self._served.move_to_end(source)
        return windows


def _of_classes(task: TaskConfig, source: Source, windows: Mapping[str, QualityWindow]) -> Quality:
    """Return the figures of all classes of a task together; without predictions, if one class has other examples than another."""
    nothing = Quality(task.name, source, 0, 0.0, math.nan, math.nan, math.nan, math.nan)
    of_classes = [windows[name] for name in task.outputs]
    if len({len(window) for window in of_classes}) > 1 or not len(of_classes[0]):
        return nothing
    labels, scores, weights = zip(*(window.arrays() for window in of_classes), strict=True)
    logloss, accuracy = class_figures(np.stack(labels, axis=1), np.stack(scores, axis=1), weights[0])
    num_positives = float(weights[0] @ np.sum(labels, axis=0))
    return replace(nothing, num_predictions=len(of_classes[0]), num_positives=num_positives, logloss=logloss, accuracy=accuracy)


@dataclass(frozen=True)
class _Counted:
    """Labels and weights of m counts: one for each of B examples, and one for each negative that a retraction takes back."""

    rows: npt.NDArray[np.int64] | None  # (m,) of the batch; None for all B in order
    labels: FloatArray  # (m, T)
    weights: FloatArray  # (m,)

    @staticmethod
    def of(examples: ExampleBatch, labels: FloatArray) -> _Counted:
        weights = 1.0 / examples.sample_rates
        taken = np.flatnonzero(examples.kinds == ExampleKind.RETRACTION)
        if not len(taken):
            return _Counted(None, labels, weights)
        rows = np.arange(len(examples))
        taken_back = -weights[taken]
        weights[taken] = 1.0
        negatives = np.zeros((len(taken), labels.shape[1]), np.float32)
        return _Counted(np.concatenate([rows, taken]), np.concatenate([labels, negatives]), np.concatenate([weights, taken_back]))

    def add_to(self, window: QualityWindow, place: int, scores: FloatArray, of_model: npt.NDArray[np.bool_] | None = None) -> None:
        """Add the counts of task `place` with their scores, float32 (B,), where there is one; only those of `of_model`, bool (B,)."""
        known = np.isfinite(scores) if of_model is None else of_model & np.isfinite(scores)
        if self.rows is not None:
            known, scores = known[self.rows], scores[self.rows]
        if known.all():
            window.add(self.labels[:, place], scores, self.weights)
        elif known.any():
            window.add(self.labels[known, place], scores[known], self.weights[known])


def _rows_by_source(models: Sequence[ServedModel], codes: npt.NDArray[np.int32]) -> Iterator[tuple[Source, npt.NDArray[np.bool_] | None]]:
    """Yield each source of a batch with its rows, bool (B,), None for all; models without a version are none."""
    sources = [Source("served", model.arm, model.generation) if model.version or model.arm else None for model in models]
    distinct = dict.fromkeys(source for source in sources if source)
    if len(distinct) == 1 and None not in sources:
        yield next(iter(distinct)), None
        return
    for source in distinct:
        yield source, np.isin(codes, [code for code, one in enumerate(sources) if one == source])

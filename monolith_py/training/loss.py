"""Loss of a batch of examples, summed over examples and tasks.

Letters: B examples, T labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, huber_loss, mse_loss, pad, softplus

from monolith_py.config import TaskConfig
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.errors import WireError


class TaskLoss:
    """Loss of every task, weighted, summed over the batch.

    Binary tasks have the binary cross-entropy, multiclass ones the cross-entropy of the strongest class, regressions half the squared error
    or Huber's loss on their scale.

    The loss of an example kept with probability r has the weight 1 / r. The expected gradient is that of the whole stream for every task,
    and served probabilities need no correction. (Monolith, arXiv 2209.07663, and Wang et al., arXiv 2110.13048, shift the
    logit by log r instead, which is right for one task only: here an example is sampled by all its labels together.)

    A RETRACTION takes back a negative of weight 1 / r and has the weight 1 of a positive, which is never sampled: its logit gradient is
    (p - y) - p / r for label y. That is -y for r = 1. Together with the negative learnt before it gives p - y, whether that was sampled or
    not: a negative that was sampled away turns positive as a plain example of weight 1. For other tasks it is the same difference of
    losses: that of the label less that of 0, or of no class.
    """

    def __init__(self, tasks: tuple[str, ...], weights: tuple[float, ...], settings: Sequence[TaskConfig] = ()) -> None:
        """Make the loss of labels `tasks`; `weights` by task, `settings` of the tasks unless all are binary."""
        self._tasks = tasks
        self._others: list[tuple[TaskConfig, slice]] = []
        binary, of_labels, place = [], [], 0
        for task, weight in zip(settings, weights, strict=bool(settings)):
            size = len(task.outputs)
            if task.kind == "binary":
                binary.append(place)
            else:
                self._others.append((task, slice(place, place + size)))
            of_labels += [weight] * size
            place += size
        self._binary = torch.tensor(binary)
        self._weights = torch.tensor(of_labels or weights, dtype=torch.float32)  # (T,)

    def labels(self, examples: ExampleBatch) -> Tensor:
        """Return labels, float32 (B, T), in the order of the schema; every one must be in `examples.labels`.

        Of the classes of a task only the strongest has a 1.

        Raises:
            WireError: a label is not 0 or 1, and is of no regression.
        """
        labels = torch.stack([torch.from_numpy(examples.labels[task]) for task in self._tasks], dim=1)
        if not self._others:
            return _checked(labels)
        _checked(labels[:, self._binary])
        for task, columns in self._others:
            if task.kind == "multiclass":
                given = _checked(labels[:, columns])
                stronger = given.flip(1).cumsum(1).flip(1) - given
                labels[:, columns] = given * (stronger == 0)
        return labels

    def targets(self, labels: Tensor) -> Tensor:
        """Return what the outputs of the model should be like, float32 (B, T): labels, those of a regression on its scale."""
        targets = labels.clone()
        for task, columns in self._others:
            if task.kind == "regression" and task.scale == "log1p":
                targets[:, columns] = torch.log1p(labels[:, columns])
        return targets

    def __call__(self, logits: Tensor, labels: Tensor, examples: ExampleBatch) -> Tensor:
        """Return the summed loss, a scalar, of outputs and labels, float32 (B, T)."""
        rates = torch.from_numpy(examples.sample_rates)
        retractions = torch.from_numpy(examples.kinds == ExampleKind.RETRACTION)
        if not self._others:
            return self._of_binary(logits, labels, self._weights, (rates, retractions))
        total = self._of_binary(logits[:, self._binary], labels[:, self._binary], self._weights[self._binary], (rates, retractions))
        targets = self.targets(labels)
        for task, columns in self._others:
            outputs = logits[:, columns]
            losses = _losses(task, outputs, targets[:, columns])  # (B,)
            weighted = losses / rates
            if retractions.any():
                weighted = torch.where(retractions, losses - _losses(task, outputs, torch.zeros_like(outputs)) / rates, weighted)
            total = total + self._weights[columns.start] * weighted.sum()
        return total

    @staticmethod
    def _of_binary(logits: Tensor, labels: Tensor, of_tasks: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
        """Return the summed loss of binary tasks; `kept`: sample rates and whether each is a retraction, (B,)."""
        rates, retractions = kept
        weights = of_tasks / rates.unsqueeze(1)  # (B, T)
        if not retractions.any():
            return binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        losses = binary_cross_entropy_with_logits(logits, labels, reduction="none")
        taken_back = -logits * labels * of_tasks + softplus(logits) * (of_tasks - weights)
        return torch.where(retractions.unsqueeze(1), taken_back, losses * weights).sum()


def _losses(task: TaskConfig, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each example, (B,), of outputs and targets of one task, (B, its labels)."""
    if task.kind == "multiclass":
        classes = torch.where(targets.any(dim=1), targets.argmax(dim=1) + 1, 0)
        return cross_entropy(pad(outputs, (1, 0)), classes, reduction="none")  # class 0, none, has the output 0
    if task.loss == "huber":
        return huber_loss(outputs, targets, reduction="none", delta=task.huber_delta).squeeze(1)
    return 0.5 * mse_loss(outputs, targets, reduction="none").squeeze(1)


def _checked(labels: Tensor) -> Tensor:
    """Return labels, which must be 0 or 1."""
    wrong = (labels != 0) & (labels != 1)
    if wrong.any():
        raise WireError(f"examples.labels must be 0 or 1 unless of a regression, got {float(labels[wrong][0])}")
    return labels

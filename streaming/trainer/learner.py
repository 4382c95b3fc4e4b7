"""Learning of batches that may hold poisoned examples: a bad batch is halved until only the bad examples are put aside."""

from __future__ import annotations

from collections.abc import Callable

import torch

from monolith_py.data.columns import FloatArray
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import ModelNotFinite, PoisonedBatch, WireError
from monolith_py.observe import metrics
from monolith_py.training import Trainer

# Called with the examples of a step and their probabilities from before it, float32 (B, T).
Learnt = Callable[[ExampleBatch, FloatArray], None]
# Called with one example, its row in the batch, and the error.
PutAside = Callable[[ExampleBatch, int, str], None]


class Learner:
    """Learns batches with a trainer; calls `learnt` after each step and `put_aside` for each bad example."""

    def __init__(self, trainer: Trainer, learnt: Learnt, put_aside: PutAside) -> None:
        self._trainer, self._learnt, self._put_aside = trainer, learnt, put_aside

    def learn(self, examples: ExampleBatch, first_row: int = 0) -> None:
        """Learn the examples, which are the rows of a batch from `first_row` on.

        Raises:
            ModelNotFinite: the model is poisoned, not the examples.
        """
        trainer = self._trainer
        try:
            probabilities = trainer.step(examples)
        except (PoisonedBatch, WireError) as error:
            if not all(bool(torch.isfinite(value).all()) for value in trainer.model.parameters()):
                rule = f"must be finite, got NaN or infinity after {trainer.num_batches} batches"
                raise ModelNotFinite(f"dense parameters {rule}: {error}") from None
            metrics.BATCHES_SKIPPED.labels(reason=type(error).__name__).inc()
            if len(examples) == 1:
                self._put_aside(examples, first_row, str(error))
                return
            middle = len(examples) // 2
            self.learn(examples.slice(0, middle), first_row)
            self.learn(examples.slice(middle, len(examples)), first_row + middle)
        else:
            self._learnt(examples, probabilities)

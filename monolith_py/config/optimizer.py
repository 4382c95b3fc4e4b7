"""Settings of the optimizers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Count, NotNegative, Positive, Settings, Share


class SparseOptimizerConfig(Settings):
    """Update rule of the rows; `monolith_py.table` documents each.

    A setting left out takes the rule's default. Adagrad takes lr = 0.1 / sqrt(number of sparse features) and initial_accumulator = 0.1: a
    step moves the logit by the rows of all features together. Chosen on four streams of 5 to 28 features (tests/evidence/ONLINE.md).
    """

    # Update rule.
    kind: Literal[
        "sgd",
        "momentum",
        "adagrad",
        "rowwise_adagrad",
        "adadelta",
        "rmsprop",
        "adam",
        "amsgrad",
        "adamw",
        "ftrl",
        "group_adagrad",
        "group_ftrl",
    ] = "adagrad"
    # Learning rate, on the summed gradient of the batch.
    lr: Positive | None = None
    # Factor of the weights added to the gradient (adamw: multiplied by lr and subtracted from the weights); 0 turns it off.
    weight_decay: NotNegative | None = None
    # Highest norm of the gradient of a row; 0 turns clipping off.
    clip_norm: NotNegative | None = None
    # Constant added to the denominator of a step.
    eps: Positive | None = None
    # Start value of the sum of squared gradients.
    initial_accumulator: NotNegative | None = None
    # Decay of the velocity of momentum.
    momentum: Share | None = None
    # Nesterov's form of momentum.
    nesterov: bool | None = None
    # Decay of the mean squared gradient of adadelta and rmsprop.
    rho: Share | None = None
    # Decay of the first moment of adam, amsgrad and adamw.
    beta1: Share | None = None
    # Decay of the second moment of adam, amsgrad and adamw.
    beta2: Share | None = None
    # L1 strength of ftrl and group_ftrl.
    l1: NotNegative | None = None
    # L2 strength of ftrl; group-lasso strength of group_adagrad and group_ftrl.
    l2: NotNegative | None = None
    # Smoothing of the learning rate of ftrl and group_ftrl.
    beta: NotNegative | None = None

    def for_features(self, num_features: int) -> SparseOptimizerConfig:
        """Return the settings of a job with so many sparse features, with the defaults of a job's adagrad filled in.

        >>> SparseOptimizerConfig().for_features(25).lr
        0.02
        """
        if self.kind != "adagrad":
            return self
        defaults = {"lr": 0.1 / math.sqrt(num_features), "initial_accumulator": 0.1}
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})


class DenseOptimizerConfig(Settings):
    """Optimizer of the dense parameters.

    It steps once for every `reference_batch` examples (`trainer.batch_size` if larger), at a rate scaled by that number (linear scaling,
    Goyal et al. 2017, section 2.1). The size of online batches depends on their labels: positives arrive alone, negatives in hundreds.
    With a step for each batch, one positive would weigh as much in Adam's moments as hundreds of negatives.
    """

    # Update rule.
    kind: Literal["adam", "adagrad", "sgd"] = "adam"
    # Learning rate of a batch of reference_batch examples, on their mean gradient.
    lr: Positive = 1e-3
    # Examples of a step at which `lr` applies; gradients of smaller batches are summed up to this number.
    reference_batch: Count = 256
    # Decay of the first moment of adam.
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    # Decay of the second moment of adam.
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    # Constant added to the denominator of a step of adam and adagrad.
    eps: Positive = 1e-8
    # Highest norm of the mean gradient over all dense parameters; no clipping if left out.
    clip_norm: Positive | None = None

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> DenseOptimizerConfig:
        idle = {"adam": (), "adagrad": ("beta1", "beta2"), "sgd": ("beta1", "beta2", "eps")}[self.kind]
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"optimizer.dense.{name} must come with kind = 'adam', got {getattr(self, name)!r} without")
        return self


class OptimizerConfig(Settings):
    """Optimizers of rows and of dense parameters."""

    # Optimizer of the embedding rows.
    sparse: SparseOptimizerConfig = SparseOptimizerConfig()
    # Optimizer of the dense parameters.
    dense: DenseOptimizerConfig = DenseOptimizerConfig()

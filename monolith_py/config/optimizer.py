"""Settings of the optimizers."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import model_validator

from monolith_py.config.fields import Count, CountOrZero, NotNegative, Positive, Settings, Share

# Settings of the rules in monolith_py.table.optimizers, beside those of all rules.
_OF_ALL = ("lr", "weight_decay", "clip_norm")
_OF_KIND = {
    "sgd": (),
    "momentum": ("momentum", "nesterov"),
    "adagrad": ("eps", "initial_accumulator"),
    "rowwise_adagrad": ("eps", "initial_accumulator"),
    "adadelta": ("rho", "eps"),
    "rmsprop": ("rho", "eps"),
    "adam": ("beta1", "beta2", "eps"),
    "amsgrad": ("beta1", "beta2", "eps"),
    "adamw": ("beta1", "beta2", "eps"),
    "ftrl": ("initial_accumulator", "l1", "l2", "beta"),
    "group_adagrad": ("eps", "initial_accumulator", "l2"),
    "group_ftrl": ("initial_accumulator", "beta", "l1", "l2"),
}
# Defaults of the rules whose sum divides a step.
_FTRL_DEFAULTS: dict[str, dict[str, float]] = {
    "ftrl": {"initial_accumulator": 0.01, "beta": 0.0, "l2": 0.0},
    "group_ftrl": {"initial_accumulator": 0.0, "beta": 1.0},
}


class ScheduleConfig(Settings):
    """Schedule of the learning rate of the rows: a linear increase, then a decay. A step is a batch that the table learns from.

    The steps of a table go on across restarts; those of a table that starts anew begin at 0.
    """

    # Batches of the increase from 0 to lr.
    warmup_steps: CountOrZero = 0
    # Decay after the increase: none; a power of the time left; half a cosine; a factor now and then.
    decay: Literal["none", "polynomial", "cosine", "step"] = "none"
    # Batches from lr to end_lr, or from one factor to the next with decay = "step".
    decay_steps: CountOrZero = 0
    # Learning rate at the end of a polynomial or cosine decay, kept from then on.
    end_lr: NotNegative = 0.0
    # Power of decay = "polynomial".
    power: Positive = 1.0
    # Factor of decay = "step".
    factor: Share = 0.5

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> ScheduleConfig:
        for needs, names, there in (
            ("a decay", ("decay_steps",), self.decay != "none"),
            ("decay = 'polynomial' or 'cosine'", ("end_lr",), self.decay in ("polynomial", "cosine")),
            ("decay = 'polynomial'", ("power",), self.decay == "polynomial"),
            ("decay = 'step'", ("factor",), self.decay == "step"),
        ):
            for name in names:
                if not there and not self.is_default(name):
                    raise ValueError(f"schedule.{name} must come with {needs}, got {getattr(self, name)!r} without")
        if self.decay != "none" and not self.decay_steps:
            raise ValueError(f"schedule.decay_steps must be >= 1 with decay = {self.decay!r}, got 0")
        return self


class SparseOptimizerConfig(Settings):
    """Update rule of the rows; `monolith_py.table` documents each.

    A setting left out takes the rule's default. Adagrad takes lr = 0.1 / sqrt(number of sparse features) and initial_accumulator = 0.1: a
    step moves the logit by the rows of all features together. Chosen on four streams of 5 to 28 features (tests/evidence/ONLINE.md).
    """

    path: ClassVar[str] = "optimizer.sparse"

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
    # Schedule of the learning rate; lr if left out.
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> SparseOptimizerConfig:
        for name in self.model_fields_set - {"kind", "schedule", *_OF_ALL, *_OF_KIND[self.kind]}:
            if getattr(self, name) is not None:
                kinds = [kind for kind, names in _OF_KIND.items() if name in names]
                needs = f"kind = {', '.join(repr(kind) for kind in kinds)}"
                raise ValueError(f"{self.path}.{name} must come with {needs}, got {getattr(self, name)!r} with {self.kind!r}")
        if self.kind in _FTRL_DEFAULTS:
            addends = {name: getattr(self, name) for name in _FTRL_DEFAULTS[self.kind]}
            if not any(_FTRL_DEFAULTS[self.kind][name] if value is None else value for name, value in addends.items()):
                raise ValueError(f"{self.path}.beta or initial_accumulator must be > 0 with {self.kind!r}, got 0 for both")
        return self

    def for_features(self, num_features: int) -> SparseOptimizerConfig:
        """Return the settings of a job with so many sparse features, with the defaults of a job's adagrad filled in.

        >>> SparseOptimizerConfig().for_features(25).lr
        0.02
        """
        if self.kind != "adagrad":
            return self
        defaults = {"lr": 0.1 / math.sqrt(num_features), "initial_accumulator": 0.1}
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})


class FeatureOptimizerConfig(SparseOptimizerConfig):
    """Update rule of the rows of one feature, in place of that of the job."""

    path: ClassVar[str] = "features.optimizer"


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
    beta1: Share = 0.9
    # Decay of the second moment of adam.
    beta2: Share = 0.999
    # Constant added to the denominator of a step of adam and adagrad.
    eps: Positive = 1e-8
    # Highest norm of the mean gradient over all dense parameters; no clipping if left out.
    clip_norm: Positive | None = None

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> DenseOptimizerConfig:
        for needs, names, there in (
            ("kind = 'adam'", ("beta1", "beta2"), self.kind == "adam"),
            ("kind = 'adam' or 'adagrad'", ("eps",), self.kind != "sgd"),
        ):
            for name in names:
                if not there and not self.is_default(name):
                    raise ValueError(f"optimizer.dense.{name} must come with {needs}, got {getattr(self, name)!r} without")
        return self


class OptimizerConfig(Settings):
    """Optimizers of rows and of dense parameters."""

    # Optimizer of the embedding rows.
    sparse: SparseOptimizerConfig = SparseOptimizerConfig()
    # Optimizer of the dense parameters.
    dense: DenseOptimizerConfig = DenseOptimizerConfig()

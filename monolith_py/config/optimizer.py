"""Settings of the optimizers of rows and dense parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Count, NotNegative, Positive, Settings, Share


class SparseOptimizerConfig(Settings):
    """How rows of the embedding tables are updated; `monolith_py.table` documents each rule. None: as the rule has it."""

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
    lr: Positive | None = None
    weight_decay: NotNegative | None = None
    clip_norm: NotNegative | None = None
    eps: Positive | None = None
    initial_accumulator: NotNegative | None = None
    momentum: Share | None = None
    nesterov: bool | None = None
    rho: Share | None = None
    beta1: Share | None = None
    beta2: Share | None = None
    l1: NotNegative | None = None
    l2: NotNegative | None = None
    beta: NotNegative | None = None


class DenseOptimizerConfig(Settings):
    """Optimizer of the dense parameters. It steps once for every `reference_batch` examples, or for every `trainer.batch_size` if
    larger, at a rate scaled by the size (linear scaling, Goyal et al. 2017, section 2.1).

    Online batches are of any size, and their size depends on their labels: positives come alone, negatives in hundreds. A step for each
    would let one positive weigh as much in Adam's moments as hundreds of negatives.
    """

    kind: Literal["adam", "adagrad", "sgd"] = "adam"
    lr: Positive = 1e-3
    # Examples of a step: gradients of smaller batches are summed until there are as many.
    reference_batch: Count = 256
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Positive = 1e-8
    clip_norm: Positive | None = None

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> DenseOptimizerConfig:
        idle = {"adam": (), "adagrad": ("beta1", "beta2"), "sgd": ("beta1", "beta2", "eps")}[self.kind]
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"optimizer.dense.{name} must come with kind = 'adam', got {getattr(self, name)!r} without")
        return self


class OptimizerConfig(Settings):
    """Learning rules of rows and towers."""

    sparse: SparseOptimizerConfig = SparseOptimizerConfig()
    dense: DenseOptimizerConfig = DenseOptimizerConfig()

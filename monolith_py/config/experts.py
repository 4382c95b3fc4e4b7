"""Settings of a mixture of experts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Count, NotNegative, Positive, Settings

GateKind = Literal["softmax", "top_k", "dense_to_sparse", "tree", "random"]


class ExpertsConfig(Settings):
    """Experts in the place of the tower, each with the layers of model.tower, mixed by one gate for each task (MMoE, Ma et al. 2018)."""

    # Number of experts, 2 or more, a power of 2 with gate = "tree"; 0: one tower for all tasks.
    count: Annotated[int, Field(ge=0, le=64)] = 0
    # Weights of the experts for an example, from its inputs: "softmax" of linear scores; "top_k", the softmax of the greatest of them
    # (Shazeer et al. 2017, without noise); "dense_to_sparse", a softmax that cools down and keeps fewer experts (EvoMoE, Nie et al. 2021);
    # "tree", trees with soft splits that become hard (COMET, Ibrahim et al. 2023); "random", fixed random scores (SMoE-Dropout, Chen et
    # al. 2023).
    gate: GateKind = "softmax"
    # Experts with a weight above 0 at the end of the ramp, for each task of an example; only these compute. With gate = "tree" the number
    # of trees, each of which ends at one expert.
    top_k: Annotated[int, Field(ge=1, le=64)] = 1
    # Examples over which gates become sparse: "dense_to_sparse" and "tree" from all experts to `top_k`; "random" from one to `top_k`.
    ramp_examples: Count = 200_000
    # Divisor of the scores of "dense_to_sparse" at the start; it falls exponentially over the ramp.
    temperature: Positive = 2.0
    # The divisor at the end.
    final_temperature: Positive = 0.5
    # Width of the range of a score in which a split of "tree" is soft.
    split_width: Positive = 1.0
    # Factor of the loss of uneven load: the squared coefficient of variation of the experts' mean weights in a batch (Shazeer et al. 2017,
    # equation 7), for each example; gates that learn only.
    balance: NotNegative = 0.0
    # Factor of the entropy, in nats, of the leaves of the trees of "tree", for each example: it makes splits hard.
    entropy: NotNegative = 0.0

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> ExpertsConfig:
        if self.count == 1:
            raise ValueError("model.experts.count must be 0 or >= 2, got 1")
        for needs, names, holds in (
            ("count", ("gate",), self.count > 0),
            ("a gate other than 'softmax'", ("top_k",), self.gate != "softmax"),
            ("gate = 'dense_to_sparse', 'tree' or 'random'", ("ramp_examples",), self.gate not in ("softmax", "top_k")),
            ("gate = 'dense_to_sparse'", ("temperature", "final_temperature"), self.gate == "dense_to_sparse"),
            ("gate = 'tree'", ("split_width", "entropy"), self.gate == "tree"),
            ("a gate other than 'random'", ("balance",), self.gate != "random"),
        ):
            for name in names:
                if not holds and not self.is_default(name):
                    raise ValueError(f"model.experts.{name} must come with {needs}, got {getattr(self, name)!r} without")
        if self.count and self.top_k > self.count:
            raise ValueError(f"model.experts.top_k must be at most model.experts.count, {self.count}, got {self.top_k}")
        if self.gate == "tree" and self.count & (self.count - 1):
            raise ValueError(f"model.experts.count must be a power of 2 with gate = 'tree', got {self.count}")
        return self

"""Settings of the ranking model."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from monolith_py.config.experts import ExpertsConfig
from monolith_py.config.fields import Settings, Share, Width
from monolith_py.config.sparsity import SparsityConfig


class ModelConfig(Settings):
    """The dense part of the model, from pooled rows to logits."""

    # Architecture: DeepFM (Guo et al. 2017) or DLRM (Naumov et al. 2019).
    kind: Literal["deepfm", "dlrm"] = "deepfm"
    # Outputs of each layer of the tower.
    tower: tuple[Width, ...] = (256, 128, 64)
    # DLRM only: outputs of each layer of the bottom tower, which maps the dense features to a row. The last is the greatest
    # features.dim; one layer of that size if left out.
    bottom: tuple[Width, ...] = ()
    # Probability of zeroing an output of a layer in training.
    dropout: Share = 0.0
    # Number format of the towers' matrix products; "auto" takes bf16 on CPUs with bf16 instructions, else fp32.
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    # Sparsity of the tower.
    sparsity: SparsityConfig = SparsityConfig()
    # Experts in the place of the tower, mixed by one gate for each task; one tower for all tasks if left out.
    experts: ExpertsConfig | None = None

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> ModelConfig:
        if self.kind != "dlrm" and self.bottom:
            raise ValueError(f"model.bottom must come with kind = 'dlrm', got {list(self.bottom)} without")
        if not self.tower and self.dropout:
            raise ValueError(f"model.dropout must come with a layer in model.tower, got {self.dropout!r} without")
        if not self.tower and self.sparsity.preset != "dense":
            raise ValueError(f"model.sparsity.preset must come with a layer in model.tower, got {self.sparsity.preset!r} without")
        if self.experts is not None and not self.tower:
            raise ValueError("model.experts must come with a layer in model.tower, got none")
        return self

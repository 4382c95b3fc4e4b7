"""Settings of the ranking model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from monolith_py.config.experts import ExpertsConfig
from monolith_py.config.fields import Settings, Share, Width
from monolith_py.config.sparsity import SparsityConfig


class ModelConfig(Settings):
    """The dense part of the model, from pooled rows to logits."""

    # Architecture: DeepFM (Guo et al. 2017), DLRM (Naumov et al. 2019) or DCN-V2 (Wang et al. 2021).
    kind: Literal["deepfm", "dlrm", "dcn"] = "deepfm"
    # Outputs of each layer of the tower.
    tower: tuple[Width, ...] = (256, 128, 64)
    # DLRM only: outputs of each layer of the bottom tower, which maps the dense features to a row. The last is the greatest
    # features.dim; one layer of that size if left out.
    bottom: tuple[Width, ...] = ()
    # DCN only: number of cross layers.
    cross_layers: Annotated[int, Field(ge=1, le=16)] = 3
    # DCN only: rank of the matrix of a cross layer, which costs 2 x inputs x rank products; full matrices (inputs x inputs) if left out.
    cross_rank: Width | None = None
    # DCN only: whether the tower reads the last cross layer, or the model's inputs beside the cross layers.
    structure: Literal["stacked", "parallel"] = "stacked"
    # Probability of zeroing an output of a layer in training.
    dropout: Share = 0.0
    # Number format of the towers' matrix products; "auto" takes bf16 on CPUs with bf16 instructions, else fp32.
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    # Sparsity of the tower.
    sparsity: SparsityConfig = SparsityConfig()
    # Experts in the place of the tower, mixed by one gate for each task.
    experts: ExpertsConfig = ExpertsConfig()

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> ModelConfig:
        if self.kind != "dlrm" and self.bottom:
            raise ValueError(f"model.bottom must come with kind = 'dlrm', got {list(self.bottom)} without")
        for name in ("cross_layers", "cross_rank", "structure"):
            if self.kind != "dcn" and not self.is_default(name):
                raise ValueError(f"model.{name} must come with kind = 'dcn', got {getattr(self, name)!r} without")
        if not self.tower and self.structure == "parallel":
            raise ValueError("model.structure must be 'stacked' without a layer in model.tower, got 'parallel'")
        if not self.tower and self.dropout:
            raise ValueError(f"model.dropout must come with a layer in model.tower, got {self.dropout!r} without")
        if not self.tower and self.sparsity.preset != "dense":
            raise ValueError(f"model.sparsity.preset must come with a layer in model.tower, got {self.sparsity.preset!r} without")
        if self.experts.count and not self.tower:
            raise ValueError("model.experts must come with a layer in model.tower, got none")
        if self.experts.count and self.structure == "parallel":
            raise ValueError("model.structure must be 'stacked' with model.experts, got 'parallel'")
        return self

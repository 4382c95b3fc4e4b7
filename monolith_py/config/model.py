"""Settings of the ranking model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from monolith_py.config.fields import Count, Settings
from monolith_py.config.sparsity import SparsityConfig


class ModelConfig(Settings):
    """The dense part of the model, from pooled rows to logits."""

    # Architecture: DeepFM (Guo et al. 2017) or DLRM (Naumov et al. 2019).
    kind: Literal["deepfm", "dlrm"] = "deepfm"
    # Outputs of each layer of the tower.
    tower: tuple[Count, ...] = (256, 128, 64)
    # DLRM only: outputs of each layer of the bottom tower, which maps the dense features to a row. The last is features.dim; one layer of
    # that size if left out.
    bottom: tuple[Count, ...] = ()
    # Probability of zeroing an output of a layer in training.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Number format of the towers' matrix products; "auto" takes bf16 on CPUs with bf16 instructions, else fp32.
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    # Sparsity of the tower.
    sparsity: SparsityConfig = SparsityConfig()

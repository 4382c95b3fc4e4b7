"""Settings of the ranking model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from monolith_py.config.fields import Count, Settings
from monolith_py.config.sparsity import SparsityConfig


class ModelConfig(Settings):
    """What stands between the pooled rows and the logits."""

    kind: Literal["deepfm", "dlrm"] = "deepfm"
    tower: tuple[Count, ...] = (256, 128, 64)
    # DLRM only: layers that bring the dense features to the width of a row; the last must be the rows' dim.
    bottom: tuple[Count, ...] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    sparsity: SparsityConfig = SparsityConfig()

"""The ranking models: pooled rows and dense features in, one logit for each task out.

Letters: B rows of the batch, F sparse features, D their dim, W width of the dense features, T tasks.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from monolith_py.config import ModelConfig
from monolith_py.features import Schema
from monolith_py.interaction import factorization, first_order, pairwise_dots
from monolith_py.tower import Tower


class RankModel(nn.Module):
    """A model of either kind: `forward(pooled, dense)` gives logits; its parameters are all that is dense of a job."""

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__()
        self._shape = (len(schema.features), schema.features[0].dim)
        self._bf16 = computes_in_bf16(config.precision)

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return float32 logits (B, T) from pooled rows (B, F * D) and dense features (B, W)."""
        with torch.autocast(pooled.device.type, torch.bfloat16, enabled=self._bf16):
            logits = self.logits(pooled, dense)
        return logits.float()

    def logits(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return logits (B, T) in the precision of the model."""
        raise AssertionError("a kind of model defines its logits")

    def _rows(self, pooled: Tensor) -> Tensor:
        return pooled.view(-1, *self._shape)  # (B, F, D)


class DeepFM(RankModel):
    """DeepFM (Guo et al. 2017, equation 1): first-order weights, factorization machine and tower over the same rows, summed.

    Where we differ: a feature's first-order weight is component 0 of its row and the factors are the others, so one row serves both;
    first-order and pairwise terms are shared by the tasks, each of which learns its own scale of them.
    """

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__(schema, config)
        num_tasks = len(schema.tasks)
        self.tower = Tower(schema.sparse_width + schema.dense_width, config.tower, config.dropout)
        self.head = nn.Linear(self.tower.out_features, num_tasks)
        self.scales = nn.Parameter(torch.ones(2, num_tasks))

    def logits(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return tower + first-order + pairwise terms."""
        rows = self._rows(pooled)
        shallow = torch.stack((first_order(rows), factorization(rows)), dim=1)  # (B, 2)
        deep: Tensor = self.head(self.tower(torch.cat((pooled, dense), dim=1)))  # (B, T)
        return deep + shallow @ self.scales


class DLRM(RankModel):
    """DLRM (Naumov et al. 2019, section 2): dense features become one more row by the bottom tower; dot products of all pairs go up."""

    _pairs: Tensor

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__(schema, config)
        num_features, dim = self._shape
        self.bottom = Tower(schema.dense_width, config.bottom or (dim,)) if schema.dense_width else None
        num_rows = num_features + (self.bottom is not None)
        pairs = torch.triu_indices(num_rows, num_rows, offset=1)
        self.register_buffer("_pairs", pairs, persistent=False)
        self.tower = Tower(pairs.shape[1] + num_rows * dim, config.tower, config.dropout)
        self.head = nn.Linear(self.tower.out_features, len(schema.tasks))

    def logits(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return what the top tower makes of the rows and their dot products."""
        rows = self._rows(pooled)
        if self.bottom is not None:
            rows = torch.cat((rows, self.bottom(dense).to(rows.dtype).unsqueeze(1)), dim=1)  # (B, F + 1, D)
        dots = pairwise_dots(rows, self._pairs)
        logits: Tensor = self.head(self.tower(torch.cat((dots, rows.flatten(1)), dim=1)))
        return logits


def build_model(schema: Schema, config: ModelConfig, seed: int) -> RankModel:
    """Return a new model; its start values are a pure function of the schema, the settings and `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {"deepfm": DeepFM, "dlrm": DLRM}[config.kind](schema, config)


def computes_in_bf16(precision: str) -> bool:
    """Return whether a model of this precision ("fp32", "bf16" or "auto") computes in bf16; auto does where the CPU has the instructions.

    Elsewhere bf16 is emulated: 12 to 19 times slower than fp32 on an AVX2-only machine.
    """
    return precision == "bf16" or (precision == "auto" and _cpu_has_bf16())


@cache
def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags

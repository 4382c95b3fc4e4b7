"""The ranking models: pooled rows and dense features in, one logit for each task out.

Letters: B rows of the batch, F sparse features, D their dim, W width of the dense features, T tasks.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from monolith_py import _core
from monolith_py.config import ModelConfig
from monolith_py.data.schema import Schema
from monolith_py.model.interaction import factorize, pairwise_dots
from monolith_py.tower import Tower


class RankModel(nn.Module):
    """A model of either kind: `forward(pooled, dense)` gives logits; its parameters are all that is dense of a job."""

    tower: Tower
    head: nn.Linear

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__()
        self._num_features, self._dim = len(schema.features), schema.features[0].dim
        self._bf16 = computes_in_bf16(config.precision)

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return float32 logits (B, T) from float32 pooled rows (B, F * D) and dense features (B, W)."""
        raise AssertionError("a kind of model defines its logits")

    def _top(self, *parts: Tensor) -> Tensor:
        """Return what tower and head make of the parts side by side, float32 (B, T); the tower computes in the model's precision."""
        with self._precision(parts[0]):
            outputs = self.tower(*parts)
        logits: Tensor = self.head(outputs.float())
        return logits

    def freeze(self) -> None:
        """Pack the towers' weights for serving: what is computed without gradients does not see later changes."""
        self.eval()
        for module in self.modules():
            if isinstance(module, Tower):
                module.freeze()

    def _make_tower(self, in_features: int, config: ModelConfig, seed: int) -> Tower:
        """Return the tower of the settings, sparse where they say so."""
        sparse = config.sparsity.preset != "dense"
        # What is sparse and runs in vector instructions is as fast in fp32; only the matrix unit makes bf16 pay there.
        bf16 = self._bf16 if config.precision != "auto" or not sparse else self._bf16 and _core.has_amx()
        return Tower(in_features, config.tower, config.dropout, sparsity=config.sparsity, bf16=bf16, seed=seed)

    def _precision(self, inputs: Tensor) -> torch.autocast:
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._bf16)


class DeepFM(RankModel):
    """DeepFM (Guo et al. 2017, equation 1): first-order weights, factorization machine and tower over the same rows, summed.

    Where we differ: a feature's first-order weight is component 0 of its row and the factors are the others, so one row serves both;
    first-order and pairwise terms are shared by the tasks, each of which learns its own scale of them.
    """

    def __init__(self, schema: Schema, config: ModelConfig, seed: int) -> None:
        super().__init__(schema, config)
        num_tasks = len(schema.tasks)
        self.tower = self._make_tower(schema.sparse_width + schema.dense_width, config, seed)
        self.head = nn.Linear(self.tower.out_features, num_tasks)
        self.scales = nn.Parameter(torch.ones(2, num_tasks))

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return tower + first-order + pairwise terms."""
        shallow, pooled = factorize(pooled, self._num_features)  # (B, 2)
        return torch.addmm(self._top(pooled, dense), shallow, self.scales)


class DLRM(RankModel):
    """DLRM (Naumov et al. 2019, section 2): dense features become one more row by the bottom tower; dot products of all pairs go up."""

    def __init__(self, schema: Schema, config: ModelConfig, seed: int) -> None:
        super().__init__(schema, config)
        self.bottom = Tower(schema.dense_width, config.bottom or (self._dim,), bf16=self._bf16) if schema.dense_width else None
        self._num_rows = self._num_features + (self.bottom is not None)
        num_pairs = self._num_rows * (self._num_rows - 1) // 2
        self.tower = self._make_tower(num_pairs + self._num_rows * self._dim, config, seed)
        self.head = nn.Linear(self.tower.out_features, len(schema.tasks))

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return what the top tower makes of the rows and their dot products."""
        if self.bottom is not None:
            with self._precision(dense):
                row = self.bottom(dense)
            pooled = torch.cat((pooled, row.float()), dim=1)  # (B, (F + 1) * D)
        dots, pooled = pairwise_dots(pooled, self._num_rows)
        return self._top(dots, pooled)


def build_model(schema: Schema, config: ModelConfig, seed: int) -> RankModel:
    """Return a new model; its start values are a pure function of the schema, the settings and `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {"deepfm": DeepFM, "dlrm": DLRM}[config.kind](schema, config, seed)


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

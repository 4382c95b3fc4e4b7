"""Ranking models: pooled rows and dense features in, one logit for each task out.

Letters: B rows of the batch, F pooled rows of an example, D the greatest of their dims, W width of the dense features, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monolith_py import _core
from monolith_py.config import ModelConfig
from monolith_py.data.schema import Schema
from monolith_py.model.attention import SequenceAttention
from monolith_py.model.attention_shape import AttentionShape
from monolith_py.model.cross import CrossNetwork
from monolith_py.model.experts import Experts
from monolith_py.model.interaction import factorize, pairwise_dots
from monolith_py.model.link import links_of
from monolith_py.model.shape import computes_in_bf16
from monolith_py.tower import SparseLinear, Tower


class RankModel(nn.Module):
    """Root of the ranking models: `forward(pooled, dense)` returns logits. Its parameters are the dense parameters of the job."""

    tower: Tower  # of a model without experts
    experts: Experts | None
    head: nn.Linear
    attention: SequenceAttention | None
    _places: Tensor | None

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__()
        dims = schema.input_dims
        shapes = AttentionShape.of(schema)
        self.attention = SequenceAttention(shapes) if shapes else None
        self._num_features, self._dim = len(dims), max(dims)
        # Places of the weights of all rows in rows of D weights; None if each has D.
        places = [row * self._dim + index for row, dim in enumerate(dims) for index in range(dim)]
        self.register_buffer("_places", torch.tensor(places) if min(dims) < self._dim else None, persistent=False)
        self._bf16 = computes_in_bf16(config.precision)
        self.links = links_of(schema)

    @property
    def num_features(self) -> int:
        """Return the number of pooled rows of an example: one a feature, or `length` with pooling = "first"."""
        return self._num_features

    @property
    def dim(self) -> int:
        """Return the greatest dim of a row."""
        return self._dim

    @property
    def bf16(self) -> bool:
        """Return whether dense towers compute in bf16."""
        return self._bf16

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return float32 logits (B, T) from float32 pooled rows (B, sum of dims) and dense features (B, W)."""
        return self._logits(pooled if self.attention is None else self.attention(pooled), dense)

    def _logits(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return the logits, with one row in the place of each attended sequence."""
        raise NotImplementedError

    def _padded(self, pooled: Tensor) -> Tensor:
        """Return rows of narrower features with zeros up to D weights, (B, sum of dims) -> (B, F * D)."""
        if self._places is None:
            return pooled
        return pooled.new_zeros(len(pooled), self._num_features * self._dim).index_copy(1, self._places, pooled)

    def _top(self, *parts: Tensor) -> Tensor:
        """Return the logits of tower and head for the concatenated parts, float32 (B, T); the tower has the model's precision."""
        if self.experts is not None:
            inputs = torch.cat(parts, dim=1)
            mixed: Tensor = self.experts(inputs, self.head, lambda: self._precision(inputs))
            return mixed
        with self._precision(parts[0]):
            outputs = self.tower(*parts)
        logits: Tensor = self.head(outputs.float())
        return logits

    @property
    def towers(self) -> dict[str, Tower]:
        """Return the towers over the interaction, the experts or the only one, by the prefix of their parameters."""
        if self.experts is None:
            return {"tower": self.tower}
        return {f"experts.towers.{number}": tower for number, tower in enumerate(self.experts.each)}

    @property
    def sparse_layers(self) -> list[SparseLinear]:
        """Return the sparse layers of these towers."""
        return [layer for tower in self.towers.values() for layer in tower.sparse_layers]

    def take_penalty(self) -> Tensor | None:
        """Return the auxiliary loss of the last forward in training, summed over its examples; None without one."""
        return None if self.experts is None else self.experts.gates.take_penalty()

    def advance(self, num_examples: int) -> None:
        """Count learnt examples, for the schedule of gates."""
        if self.experts is not None:
            self.experts.gates.advance(num_examples)

    def freeze(self) -> None:
        """Pack the weights of the towers for serving: forward without gradients ignores later changes."""
        self.eval()
        for module in self.modules():
            if isinstance(module, Tower):
                module.freeze()

    def _make_top(self, groups: Sequence[int], num_tasks: int, config: ModelConfig, seed: int, *, beside: int = 0) -> None:
        """Make the tower or the experts of the settings, and the head, which reads `beside` more inputs before those of the tower.

        `groups`: widths of the inputs, one for each feature.
        """
        groups = tuple(width for width in groups if width)
        self.experts = None
        if not config.experts.count:
            self.tower = self._make_tower(groups, config, seed)
            outputs = self.tower.out_features
        else:

            def make_tower(number: int) -> Tower:
                return self._make_tower(groups, config, seed + number)

            self.experts = Experts(sum(groups), num_tasks, config.experts, make_tower)
            outputs = config.tower[-1]
        self.head = nn.Linear(beside + outputs, num_tasks)

    def _make_tower(self, groups: tuple[int, ...], config: ModelConfig, seed: int) -> Tower:
        """Return the tower of the settings."""
        sparse = config.sparsity.preset != "dense"
        # In vector instructions a sparse tower is as fast in fp32; only the matrix unit makes bf16 faster.
        bf16 = self._bf16 if config.precision != "auto" or not sparse else self._bf16 and _core.has_amx()
        return Tower(sum(groups), config.tower, config.dropout, sparsity=config.sparsity, bf16=bf16, seed=seed, groups=groups)

    def _precision(self, inputs: Tensor) -> torch.autocast:
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._bf16)


class DeepFM(RankModel):
    """DeepFM (Guo et al. 2017, equation 1): the sum of first-order weights, factorization machine and tower over the same rows.

    Three differences: component 0 of a row is the first-order weight and the other components are the factors, so that one row serves both;
    a feature of a smaller dim has zeros for the factors that it lacks;
    the tasks share the first-order and pairwise terms, each with its own scales.
    """

    def __init__(self, schema: Schema, config: ModelConfig, seed: int) -> None:
        super().__init__(schema, config)
        num_tasks = len(schema.tasks)
        self._make_top([*schema.input_dims, *schema.dense_dims.values()], num_tasks, config, seed)
        self.scales = nn.Parameter(torch.ones(2, num_tasks))

    def _logits(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return the sum of the tower, first-order and pairwise terms, (B, T)."""
        shallow, rows = factorize(self._padded(pooled), self._num_features)  # (B, 2)
        pooled = rows if self._places is None else pooled
        return torch.addmm(self._top(pooled, dense), shallow, self.scales)


class DLRM(RankModel):
    """DLRM (Naumov et al. 2019, section 2): the bottom tower maps dense features to a row; the top tower reads rows and dot products."""

    def __init__(self, schema: Schema, config: ModelConfig, seed: int) -> None:
        super().__init__(schema, config)
        self.bottom = Tower(schema.dense_width, config.bottom or (self._dim,), bf16=self._bf16) if schema.dense_width else None
        self._num_rows = self._num_features + (self.bottom is not None)
        num_pairs = self._num_rows * (self._num_rows - 1) // 2
        groups = [num_pairs, *schema.input_dims, self._dim if self.bottom is not None else 0]
        self._make_top(groups, len(schema.tasks), config, seed)

    def _logits(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return the logits of the top tower for the rows and their dot products, (B, T)."""
        rows = self._padded(pooled)
        if self.bottom is not None:
            with self._precision(dense):
                row = self.bottom(dense).float()
            rows = torch.cat((rows, row), dim=1)  # (B, (F + 1) * D)
            pooled = rows if self._places is None else torch.cat((pooled, row), dim=1)
        dots, rows = pairwise_dots(rows, self._num_rows)
        return self._top(dots, rows if self._places is None else pooled)


class DCN(RankModel):
    """DCN-V2 (Wang et al. 2021, sections 3.2 to 3.4): cross layers over rows and dense features, before the tower or beside it."""

    def __init__(self, schema: Schema, config: ModelConfig, seed: int) -> None:
        super().__init__(schema, config)
        width = schema.sparse_width + schema.dense_width
        self.cross = CrossNetwork(width, config.cross_layers, config.cross_rank)
        self._is_parallel = config.structure == "parallel"
        groups = [*schema.input_dims, *schema.dense_dims.values()]
        self._make_top(groups, len(schema.tasks), config, seed, beside=width if self._is_parallel else 0)

    def _logits(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return the logits of cross layers and tower, (B, T)."""
        inputs = torch.cat((pooled, dense), dim=1)
        crossed = self.cross(inputs)
        if not self._is_parallel:
            return self._top(crossed)
        with self._precision(inputs):
            outputs = self.tower(inputs)
        logits: Tensor = self.head(torch.cat((crossed, outputs.float()), dim=1))
        return logits


def build_model(schema: Schema, config: ModelConfig, seed: int) -> RankModel:
    """Return a new model; its start values are a pure function of schema, settings and `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {"deepfm": DeepFM, "dlrm": DLRM, "dcn": DCN}[config.kind](schema, config, seed)

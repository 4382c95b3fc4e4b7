"""Shape of a ranking model, from its settings alone: its layers, and names and shapes of its dense parameters.

Replicas on the CPU read parameters by it, without torch; `RankModel` is the same model in torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.config import ModelConfig
from monolith_py.config.experts import ExpertsConfig
from monolith_py.config.sparsity import Atom
from monolith_py.data.schema import Schema
from monolith_py.model.attention_shape import AttentionShape
from monolith_py.model.gating import NUM_DIGITS, Gating
from monolith_py.tower.layers.atoms import height_of, why_dense

Parameters = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class LayerShape:
    """One linear layer; with atoms a sparse one."""

    inputs: int
    outputs: int
    atom: Atom | None = None

    @property
    def atoms(self) -> tuple[int, int, int]:
        """Return (blocks, places of a block, weights of an atom) of a sparse layer, as `SparseLinear` has them."""
        assert self.atom is not None
        if self.atom == "neuron":
            return 1, self.outputs, self.inputs
        height = height_of(self.atom)
        return -(-self.outputs // height), self.inputs, height


@dataclass(frozen=True)
class ModelShape:
    """A model without its weights.

    Letters: F pooled rows of an example, D the greatest of their dims, W width of the dense features, T tasks.
    """

    kind: Literal["deepfm", "dlrm", "dcn"]
    row_dims: tuple[int, ...]  # (F,)
    dense_width: int  # W
    num_tasks: int  # T
    tower: tuple[LayerShape, ...]
    bottom: tuple[LayerShape, ...]  # of a DLRM with dense features
    bf16: bool  # dense layers compute in bf16
    sparse_bf16: bool  # towers with a sparse layer compute in bf16
    has_dropout: bool
    cross: tuple[int | None, ...] = ()  # of a DCN: the rank of each cross layer, None for a full matrix
    is_parallel: bool = False  # the tower of a DCN reads the inputs, and the head reads cross layers and tower
    attention: tuple[AttentionShape, ...] = ()  # over sequences, each of which is one of the F rows
    experts: ExpertsConfig | None = None  # each of them has the layers of `tower`

    @staticmethod
    def of(schema: Schema, config: ModelConfig) -> ModelShape:
        """Return the shape of the model of a schema and its settings."""
        dims = schema.input_dims
        bottom: tuple[LayerShape, ...] = ()
        width = schema.sparse_width + schema.dense_width
        if config.kind == "dlrm":
            if schema.dense_width:
                bottom = _layers(schema.dense_width, config.bottom or (max(dims),))
            num_rows = len(dims) + bool(bottom)
            width = num_rows * (num_rows - 1) // 2 + schema.sparse_width + (max(dims) if bottom else 0)
        sparsity = config.sparsity
        tower = tuple(
            layer if why_dense(layer.inputs, layer.outputs, sparsity) else replace(layer, atom=sparsity.atom)
            for layer in _layers(width, config.tower)
        )
        bf16 = computes_in_bf16(config.precision)
        return ModelShape(
            config.kind,
            dims,
            schema.dense_width,
            len(schema.tasks),
            tower,
            bottom,
            bf16,
            # In vector instructions a sparse tower is as fast in fp32; only the matrix unit makes bf16 faster.
            sparse_bf16=bf16 and (config.precision != "auto" or bool(_core.has_amx())),
            has_dropout=config.dropout > 0,
            cross=(config.cross_rank,) * config.cross_layers if config.kind == "dcn" else (),
            is_parallel=config.structure == "parallel",
            attention=AttentionShape.of(schema),
            experts=config.experts if config.experts.count else None,
        )

    @property
    def head(self) -> LayerShape:
        """Return the last layer, which has one output for each task."""
        inputs = self.tower[-1].outputs if self.tower else self.tower_inputs
        return LayerShape(inputs + (self.tower_inputs if self.is_parallel else 0), self.num_tasks)

    @property
    def num_rows(self) -> int:
        """Return F."""
        return len(self.row_dims)

    @property
    def dim(self) -> int:
        """Return D."""
        return max(self.row_dims)

    @property
    def tower_inputs(self) -> int:
        """Return the number of inputs of the tower."""
        return len(self.padded_inputs)

    @cached_property
    def padded_rows(self) -> npt.NDArray[np.int64]:
        """Return the places of the weights of all rows in F rows of D weights, int64 (sum of dims,)."""
        return np.array([row * self.dim + index for row, dim in enumerate(self.row_dims) for index in range(dim)], np.int64)

    @cached_property
    def padded_inputs(self) -> npt.NDArray[np.int64]:
        """Return the place of each input of the tower if all rows had D weights, int64 (inputs,)."""
        rows, width = self.padded_rows, self.num_rows * self.dim
        if self.kind != "dlrm":
            return np.concatenate([rows, width + np.arange(self.dense_width)])
        num_rows = self.num_rows + bool(self.bottom)
        num_pairs = num_rows * (num_rows - 1) // 2
        bottom = num_pairs + width + np.arange(self.dim if self.bottom else 0)
        return np.concatenate([np.arange(num_pairs), num_pairs + rows, bottom])

    @property
    def num_padded_inputs(self) -> int:
        """Return the number of inputs of the tower if all rows had D weights."""
        return self.tower_inputs + self.num_rows * self.dim - sum(self.row_dims)

    @property
    def tower_prefixes(self) -> tuple[str, ...]:
        """Return the prefixes of the parameters of the tower, or of all experts."""
        return ("tower",) if self.experts is None else tuple(f"experts.towers.{number}" for number in range(self.experts.count))

    @property
    def layers(self) -> dict[str, LayerShape]:
        """Return all layers by the prefix of their parameters."""
        named = {f"bottom.layers.{index}": layer for index, layer in enumerate(self.bottom)}
        for prefix in self.tower_prefixes:
            named |= {f"{prefix}.layers.{index}": layer for index, layer in enumerate(self.tower)}
        return named | {"head": self.head}

    def check(self, parameters: Parameters) -> None:
        """Check that `parameters` are those of this model.

        Raises:
            ValueError: a name, a shape or a topology is not; the message names it.
        """
        expected: dict[str, tuple[int, ...]] = {"scales": (2, self.num_tasks)} if self.kind == "deepfm" else {}
        for index, rank in enumerate(self.cross):
            width, prefix = self.tower_inputs, f"cross.layers.{index}"
            low_rank = {} if rank is None else {f"{prefix}.down": (rank, width), f"{prefix}.up": (width, rank)}
            expected |= {f"{prefix}.bias": (width,), **(low_rank or {f"{prefix}.weight": (width, width)})}
        for attention in self.attention:
            expected |= attention.parameter_shapes
        if self.experts is not None:
            num_scores = self.num_tasks * Gating.at(self.experts, 0).num_scores
            gates = {"weight": (num_scores, self.tower_inputs), "bias": (num_scores,), "learnt": (NUM_DIGITS,)}
            expected |= {f"experts.gates.{name}": shape for name, shape in gates.items()}
        for prefix, layer in self.layers.items():
            expected[f"{prefix}.bias"] = (layer.outputs,)
            if layer.atom is None:
                expected[f"{prefix}.weight"] = (layer.outputs, layer.inputs)
                continue
            blocks, _, height = layer.atoms
            num_atoms = len(parameters.get(f"{prefix}.columns", ()))
            expected[f"{prefix}.bounds"], expected[f"{prefix}.columns"] = (blocks + 1,), (num_atoms,)
            expected[f"{prefix}.topology_version"], expected[f"{prefix}.values"] = (), (num_atoms, height)
        if names := sorted(expected.keys() ^ parameters.keys()):
            raise ValueError(f"parameters must be those of the model, got {names} in one of the two")
        for name, shape in expected.items():
            if parameters[name].shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {parameters[name].shape}")
        for prefix, layer in self.layers.items():
            if layer.atom is not None:
                _check_topology(prefix, parameters[f"{prefix}.bounds"], parameters[f"{prefix}.columns"], layer.atoms[1])


def _layers(inputs: int, sizes: tuple[int, ...]) -> tuple[LayerShape, ...]:
    widths = [inputs, *sizes]
    return tuple(LayerShape(*pair) for pair in zip(widths[:-1], sizes, strict=True))


def _check_topology(prefix: str, bounds: npt.NDArray[Any], columns: npt.NDArray[Any], num_places: int) -> None:
    if bounds[0] != 0 or bounds[-1] != len(columns) or (np.diff(bounds) < 0).any():
        raise ValueError(f"{prefix}.bounds must ascend from 0 to the number of atoms {len(columns)}")
    if len(columns) and (columns.min() < 0 or columns.max() >= num_places):
        raise ValueError(f"{prefix}.columns must be in [0, {num_places}), got {columns.min()} to {columns.max()}")
    places = np.repeat(np.arange(len(bounds) - 1, dtype=np.int64), np.diff(bounds)) * num_places + columns
    if (np.diff(places) <= 0).any():
        raise ValueError(f"{prefix}.columns must ascend within a block")


def computes_in_bf16(precision: str) -> bool:
    """Return whether a model of `precision` ("fp32", "bf16" or "auto") computes in bf16; auto does if the CPU has the instructions.

    Without them bf16 is emulated: 12 to 19 times slower than fp32 on an AVX2-only machine.
    """
    return precision == "bf16" or (precision == "auto" and _cpu_has_bf16())


@cache
def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags

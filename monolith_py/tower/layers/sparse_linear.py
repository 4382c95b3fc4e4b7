"""A linear layer with only its live atoms stored and trained.

Letters: B rows of the batch, I inputs, O outputs, h weights of an atom, k live atoms. An atom lives or dies as a whole:

    "16x1"    16 outputs x 1 input    blocks = ceil(O / 16), places = I, h = 16
    "1x1"     a single weight         blocks = O,            places = I, h = 1
    "neuron"  a whole output row      blocks = 1,            places = O, h = I

All atoms of a layer form an array (blocks, places, h); the live ones are stored in its order, k rows of h. If 16 does not divide O, the
last block is padded: weights of the padding are zero and stay zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from monolith_py.config.sparsity import Atom
from monolith_py.tower.layers.atoms import Mask, csr_of, grid_of, mask_of


class SparseLinear(nn.Module):
    """`outputs = inputs @ weight.T + bias`, then optionally ReLU; dead atoms of the weight are zero.

    The layer itself computes in torch, on any device; a `Tower` of such layers runs in the core on CPUs.

    >>> layer = SparseLinear.of(nn.Linear(8, 32), np.eye(2, 8, dtype=np.bool_))
    >>> layer.values.shape, layer.density
    (torch.Size([2, 16]), 0.125)
    >>> layer(torch.zeros(3, 8)).shape
    torch.Size([3, 32])
    """

    bounds: Tensor  # int32 (blocks + 1,): live atoms of block b are [bounds[b], bounds[b + 1])
    columns: Tensor  # int32 (k,): place of each live atom, ascending within a block
    topology_version: Tensor  # int64 (): number of changes of the topology

    def __init__(self, in_features: int, out_features: int, atom: Atom = "16x1", *, relu: bool = False) -> None:
        """Make a layer without a live atom and with bias 0; `of` converts a dense layer."""
        super().__init__()
        self.in_features, self.out_features, self.atom, self.relu = in_features, out_features, atom, relu
        self.num_blocks, self.num_places, self.atom_size = _shape_of_atoms(in_features, out_features, atom)
        self.values = nn.Parameter(torch.zeros(0, self.atom_size))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.register_buffer("bounds", torch.zeros(self.num_blocks + 1, dtype=torch.int32))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("topology_version", torch.zeros((), dtype=torch.int64))
        # Gradients of every atom, dead or live, float32 (blocks, places, h). While it is not None, each backward adds to it.
        self.gradient_sum: Tensor | None = None
        # Widths of the features side by side in the inputs, which sum to I; () if the inputs are no features.
        self.input_groups: tuple[int, ...] = ()
        # Squares of the inputs, float32 (I,). While it is not None, each backward adds the sum over its rows.
        self.input_squares: Tensor | None = None

    @staticmethod
    def of(dense: nn.Linear, live: Mask, atom: Atom = "16x1", *, relu: bool = False) -> SparseLinear:
        """Return a layer with the weights of `dense` at the atoms of the mask `live`."""
        layer = SparseLinear(dense.in_features, dense.out_features, atom, relu=relu)
        layer.bias.data.copy_(dense.bias.detach())
        layer.place(live, atoms_of(dense.weight.detach(), atom)[torch.from_numpy(np.atleast_2d(live))])
        return layer

    @property
    def num_atoms(self) -> int:
        """Return the number of atoms, dead and live."""
        return self.num_blocks * self.num_places

    @property
    def num_live(self) -> int:
        """Return the number of live atoms."""
        return len(self.columns)

    @property
    def num_live_weights(self) -> int:
        """Return the number of live weights, without those of the padding."""
        padding = self.num_blocks * self.atom_size - self.out_features if self.atom == "16x1" else 0
        in_last_block = int(self.bounds[-1] - self.bounds[-2]) if padding else 0
        return self.values.numel() - in_last_block * padding

    @property
    def density(self) -> float:
        """Return the share of live atoms."""
        return self.num_live / self.num_atoms

    @property
    def grid(self) -> tuple[int, ...]:
        """Return the shape of a mask of the layer's atoms: (blocks, I), or (O,) for neurons."""
        return grid_of((self.out_features, self.in_features), self.atom)

    @property
    def live(self) -> Mask:
        """Return the mask of the live atoms."""
        return mask_of(self.bounds.cpu().numpy(), self.columns.cpu().numpy(), self.grid)

    def place(self, live: Mask, values: Tensor) -> None:
        """Set the topology to the mask `live` with `values` (k, h) in the order of its atoms; increment `topology_version`.

        The parameter `values` is replaced by a new one.

        Raises:
            ValueError: the shapes do not fit the layer or each other.
        """
        if live.shape != self.grid:
            raise ValueError(f"live must have the shape {self.grid} of the layer's atoms, got {live.shape}")
        bounds, columns = csr_of(live)
        if values.shape != (len(columns), self.atom_size):
            raise ValueError(f"values must have shape {(len(columns), self.atom_size)}, got {tuple(values.shape)}")
        device = self.values.device
        self.bounds, self.columns = torch.from_numpy(bounds).to(device), torch.from_numpy(columns).to(device)
        # A new parameter: autograd keeps the shape that it saw of the old one.
        self.values = nn.Parameter(values.detach().to(device).contiguous())
        self.topology_version += 1

    def weight(self) -> Tensor:
        """Return the dense weight, float32 (O, I), zero at dead atoms; gradients reach `values`."""
        return weight_of(self._atoms(), self.in_features, self.out_features, self.atom)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, (B, I) -> (B, O)."""
        if self.atom == "neuron" and self.gradient_sum is None:
            rows = self.columns.long()
            live = linear(inputs, self.values, self.bias[rows])  # (B, k)
            outputs = live.new_zeros(len(inputs), self.out_features).index_copy(1, rows, live)
        else:
            atoms = self._atoms()
            if self.gradient_sum is not None and atoms.requires_grad:
                atoms.register_hook(partial(self._collect, inputs.detach()))  # type: ignore[no-untyped-call]
            bias: Tensor = self.bias
            if self.atom == "neuron":  # a dead neuron has no bias either
                bias = bias * torch.zeros_like(bias).index_fill(0, self.columns.long(), 1.0)
            outputs = linear(inputs, weight_of(atoms, self.in_features, self.out_features, self.atom), bias)
        return torch.relu(outputs) if self.relu else outputs

    def to_linear(self) -> nn.Linear:
        """Return a dense layer of the same weights, without the ReLU."""
        dense = nn.Linear(self.in_features, self.out_features, device=self.values.device)
        with torch.no_grad():
            dense.weight.copy_(self.weight())
            dense.bias.copy_(self.bias)
            if self.atom == "neuron":
                dense.bias[~torch.isin(torch.arange(self.out_features), self.columns.cpu())] = 0.0
        return dense

    def extra_repr(self) -> str:
        """Return the layer's text in torch's `repr`."""
        return f"{self.in_features}, {self.out_features}, atom={self.atom!r}, density={self.density:.3f}, relu={self.relu}"

    def _collect(self, inputs: Tensor, gradient: Tensor) -> None:
        if self.gradient_sum is not None:
            self.gradient_sum += gradient
        self.add_squares([inputs])

    def add_squares(self, parts: Sequence[Tensor]) -> None:
        """Add the squares of inputs, (B, w) side by side, to `input_squares` if it collects them."""
        if self.input_squares is not None:
            self.input_squares += torch.cat([part.detach().float().square().sum(dim=0) for part in parts])

    def _blocks(self) -> Tensor:
        """Return the block of each live atom, int64 (k,)."""
        return torch.repeat_interleave(torch.arange(self.num_blocks), self.bounds.cpu().diff())

    def _atoms(self) -> Tensor:
        """Return all atoms, (blocks, places, h), dead ones zero; a hook on the result sees gradients of dead atoms too."""
        blank = self.values.new_zeros(self.num_blocks, self.num_places, self.atom_size)
        blocks = self._blocks().to(self.values.device)
        return blank.index_put((blocks, self.columns.long()), self.values)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Accept any number of live atoms; report an invalid topology as an error."""
        parts = {name: state_dict[prefix + name] for name in ("values", "bounds", "columns") if prefix + name in state_dict}
        if len(parts) == 3:
            error = self._error_in(**parts)
            if error:
                error_msgs.append(f"{prefix.rstrip('.')}: {error}")
                return
            if self.values.shape != parts["values"].shape:  # else an optimizer made before goes on with the same parameter
                self.values = nn.Parameter(torch.empty_like(parts["values"], device=self.values.device))
            self.columns = torch.empty_like(parts["columns"], device=self.columns.device)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def _error_in(self, values: Tensor, bounds: Tensor, columns: Tensor) -> str:
        """Return the fault of a topology or its values, "" without one."""
        if values.dim() != 2 or values.shape[1] != self.atom_size or columns.shape != values.shape[:1]:
            return f"values must be (atoms, {self.atom_size}) and columns (atoms,), got {tuple(values.shape)} and {tuple(columns.shape)}"
        if bounds.shape != (self.num_blocks + 1,):
            return f"bounds must be ({self.num_blocks + 1},), got {tuple(bounds.shape)}"
        if int(bounds[0]) != 0 or int(bounds[-1]) != len(columns) or bool((bounds.diff() < 0).any()):
            return f"bounds must ascend from 0 to the number of atoms {len(columns)}"
        ends = torch.zeros(len(columns) + 1, dtype=torch.bool)
        ends[bounds.cpu().long()] = True  # columns may fall at the start of a block
        if len(columns) and (int(columns.min()) < 0 or int(columns.max()) >= self.num_places):
            return f"columns must be in [0, {self.num_places})"
        if bool(((columns.cpu().diff() <= 0) & ~ends[1:-1]).any()):
            return "columns must ascend within a block"
        return ""


def _shape_of_atoms(in_features: int, out_features: int, atom: Atom) -> tuple[int, int, int]:
    """Return (blocks, places, h)."""
    if atom == "neuron":
        return 1, out_features, in_features
    height = 16 if atom == "16x1" else 1
    return -(-out_features // height), in_features, height


def atoms_of(weight: Tensor, atom: Atom) -> Tensor:
    """Return the atoms of a dense weight, (O, I) -> (blocks, places, h), padding zero."""
    if atom == "neuron":
        return weight.unsqueeze(0)
    blocks, inputs, height = _shape_of_atoms(weight.shape[1], weight.shape[0], atom)
    padded = pad(weight, (0, 0, 0, blocks * height - weight.shape[0]))
    return padded.view(blocks, height, inputs).transpose(1, 2)


def weight_of(atoms: Tensor, in_features: int, out_features: int, atom: Atom) -> Tensor:
    """Return the dense weight, (blocks, places, h) -> (O, I)."""
    if atom == "neuron":
        return atoms.squeeze(0)
    return atoms.transpose(1, 2).reshape(-1, in_features)[:out_features]

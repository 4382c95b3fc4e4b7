"""Tables that start from trained weights: of nn.Embedding, TorchRec's collections, state dicts and safetensors files.

Row i of a matrix of weights belongs to fid i unless other fids are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from monolith_py.errors import CheckpointError
from monolith_py.table.arguments import fids_of
from monolith_py.table.embedding_table import EmbeddingTable
from monolith_py.table.row_access import CHUNK_ROWS
from monolith_py.table.views import FloatArray, Int64Array

# Names of the weights of a table in the state dicts of TorchRec's EmbeddingBagCollection and EmbeddingCollection, and plain ones.
_NAMES = ("embedding_bags.{}.weight", "embeddings.{}.weight", "{}.weight", "{}")


def assign_weights(table: EmbeddingTable, weights: object, now_s: float, fids: npt.ArrayLike | None = None) -> int:
    """Assign the rows of a matrix, (n, D), to `fids`, int64 (n,), in chunks; return n. Their optimizer state starts anew.

    `weights` is an nn.Embedding, nn.EmbeddingBag, tensor or array, of any floating type, on any device.

    >>> from torch import nn
    >>> from monolith_py.table import Sgd
    >>> table, trained = EmbeddingTable(dim=4, optimizer=Sgd()), nn.Embedding(10, 4)
    >>> assign_weights(table, trained, now_s=0)
    10
    >>> bool((table.lookup([3])[0] == trained.weight[3].detach().numpy()).all())
    True

    Raises:
        ValueError: the weights are not (n, D), NaN or infinite, or there is not one fid for each row; chunks before are assigned.
    """
    matrix: Any = getattr(weights, "weight", weights)
    shape = tuple(getattr(matrix, "shape", ()))
    if len(shape) != 2 or shape[1] != table.dim:
        raise ValueError(f"weights for table {table.name!r} must be (n, {table.dim}), got {shape}")
    keys: Int64Array = np.arange(shape[0]) if fids is None else fids_of(fids)
    if len(keys) != shape[0]:
        raise ValueError(f"fids must be one for each of {shape[0]} rows, got {len(keys)}")
    for first in range(0, shape[0], CHUNK_ROWS):
        table.assign(keys[first : first + CHUNK_ROWS], _floats(matrix[first : first + CHUNK_ROWS]), now_s)
    return len(keys)


def warm_start(
    tables: Mapping[str, EmbeddingTable], source: object, now_s: float, names: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Assign to each table its weights in `source`; return the number of rows by table. Tables without weights there are left out.

    `source` is a module such as TorchRec's EmbeddingBagCollection, a state dict, or the path of a safetensors file. `names` gives the
    name of a table's weights where it is another one than the table's.

    Raises:
        CheckpointError: the file cannot be read.
        ValueError: no table has weights there, one in `names` has none, or weights do not fit; tables before are assigned.
    """
    given = names or {}
    if unknown := sorted(set(given) - set(tables)):
        raise ValueError(f"names must be of tables {sorted(tables)}, got {unknown}")
    found: dict[str, int] = {}
    if isinstance(source, str | Path):
        with _opened(Path(source)) as file:
            for name, key in _keys(tables, given, file.keys()):
                found[name] = _assign_slices(tables[name], file.get_slice(key), now_s)
        return found
    state = source if isinstance(source, Mapping) else source.state_dict()  # type: ignore[attr-defined]
    for name, key in _keys(tables, given, list(state)):
        found[name] = assign_weights(tables[name], state[key], now_s)
    return found


def _keys(tables: Mapping[str, EmbeddingTable], names: Mapping[str, str], keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return each table that has weights among `keys`, with their key."""
    known, pairs = set(keys), []
    for name in tables:
        candidates = [form.format(names.get(name, name)) for form in _NAMES]
        key = next((one for one in candidates if one in known), None)
        if key is not None:
            pairs.append((name, key))
        elif name in names:
            raise ValueError(f"weights of table {name!r} must be one of {candidates}, got {sorted(known)}")
    if not pairs:
        raise ValueError(f"source must have weights of one of the tables {sorted(tables)}, got {sorted(known)}")
    return pairs


def _assign_slices(table: EmbeddingTable, weights: object, now_s: float) -> int:
    """Assign a slice of a safetensors file, read chunk by chunk."""
    shape = tuple(weights.get_shape())  # type: ignore[attr-defined]
    if len(shape) != 2 or shape[1] != table.dim:
        raise ValueError(f"weights for table {table.name!r} must be (n, {table.dim}), got {shape}")
    for first in range(0, shape[0], CHUNK_ROWS):
        stop = min(first + CHUNK_ROWS, shape[0])
        table.assign(np.arange(first, stop), _floats(weights[first:stop]), now_s)  # type: ignore[index]
    return int(shape[0])


def _floats(values: object) -> FloatArray:
    """Return a tensor or array of any floating type as float32."""
    tensor = getattr(values, "detach", None)
    if tensor is not None:
        values = tensor().float().cpu().numpy()
    return np.ascontiguousarray(values, np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; raise CheckpointError for one that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from None

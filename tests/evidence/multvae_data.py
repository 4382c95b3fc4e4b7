"""User-item matrices from files, and their split for strong generalisation: some users are never trained on.

Letters: n pairs, U users, I items.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class BadMatrix(ValueError):
    """A file that is no user-item matrix; the message names the file, the field and the rule."""


@dataclass(frozen=True)
class Matrix:
    """Which user met which item, in CSR: user u has items[bounds[u]:bounds[u + 1]], ascending and each once."""

    bounds: Int64Array  # (U + 1,)
    items: Int64Array  # (n,) 0 to I - 1
    num_items: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def users(self) -> Int64Array:
        """Return the user of each pair, (n,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.bounds))

    def dense(self, rows: Int64Array) -> FloatArray:
        """Return those users' rows, 0 or 1: float32 (rows, I)."""
        values = np.zeros((len(rows), self.num_items), np.float32)
        for place, row in enumerate(rows):
            values[place, self.items[self.bounds[row] : self.bounds[row + 1]]] = 1.0
        return values

    @staticmethod
    def of_pairs(users: Int64Array, items: Int64Array, num_users: int, num_items: int) -> Matrix:
        """Return the matrix of pairs that may repeat."""
        pairs = np.unique(users * num_items + items)
        bounds = np.r_[0, np.cumsum(np.bincount(pairs // num_items, minlength=num_users))].astype(np.int64)
        return Matrix(bounds, pairs % num_items, num_items)


@dataclass(frozen=True)
class Split:
    """Users to train on, and others of whom the model sees `given` and must rank `wanted`; all over the same items."""

    train: Matrix
    given: Matrix
    wanted: Matrix


def load_matrix(path: Path, columns: Sequence[str] = ("user", "item", "weight")) -> Matrix:
    """Return the matrix in a file, with users and items numbered anew.

    `.parquet` and `.csv` have the first two of `columns`, and may have the third; pairs of a weight of 0 or less are left out. `.npz` has
    the arrays of a CSR matrix as `scipy.sparse.save_npz` names them: shape, indptr, indices, and maybe data.

    Raises:
        BadMatrix: the file cannot be read, lacks a field, or breaks a rule.
    """
    if path.suffix not in (suffixes := [".csv", ".npz", ".parquet"]):
        raise BadMatrix(f"{path}: suffix must be one of {suffixes}, got {path.suffix!r}")
    users, items, weights = _read_npz(path) if path.suffix == ".npz" else _read_table(path, columns)
    if not np.isfinite(weights).all():
        raise BadMatrix(f"{path}: weight must be finite, got {np.count_nonzero(~np.isfinite(weights))} that are not")
    kept = weights > 0
    if not kept.any():
        raise BadMatrix(f"{path}: must have a pair of weight > 0, got {len(kept)} pairs without")
    return _numbered(users[kept], items[kept])


def split_users(matrix: Matrix, generator: np.random.Generator, held_out: float = 0.2, least: int = 5) -> Split:
    """Return the split of Liang et al. 2018, section 4.2: a share of the users is held out, of whose items 80 % are given.

    Users of fewer than `least` items are left out, and so are items that no user of the training has.

    Raises:
        ValueError: nobody is left to train on, or nobody to test with.
    """
    counts = np.diff(matrix.bounds)
    users = generator.permutation(np.flatnonzero(counts >= least))
    num_test = round(held_out * len(users))
    test, train = users[:num_test], users[num_test:]
    if not len(test) or not len(train):
        raise ValueError(f"held_out must leave users on both sides, got {len(train)} and {len(test)} of {least} items or more")
    known = np.zeros(matrix.num_items, np.bool_)
    known[matrix.items[np.isin(matrix.users, train)]] = True
    number = np.cumsum(known) - 1
    num_items = int(known.sum())
    given, wanted = [], []
    for place, user in enumerate(test):
        items = matrix.items[matrix.bounds[user] : matrix.bounds[user + 1]]
        items = generator.permutation(number[items[known[items]]])
        num_wanted = max(1, round(0.2 * len(items)))
        if len(items) > num_wanted:
            wanted.append((place, items[:num_wanted]))
            given.append((place, items[num_wanted:]))
    if not given:
        raise ValueError(f"held_out users must share items with the others, got none of {len(test)} that does")
    rows = [(place, number[matrix.items[matrix.bounds[user] : matrix.bounds[user + 1]]]) for place, user in enumerate(train)]
    return Split(_of_rows(rows, num_items), _of_rows(given, num_items), _of_rows(wanted, num_items))


def _of_rows(rows: list[tuple[int, Int64Array]], num_items: int) -> Matrix:
    users = np.repeat(np.arange(len(rows)), [len(items) for _, items in rows])
    return Matrix.of_pairs(users, np.concatenate([items for _, items in rows]), len(rows), num_items)


def _numbered(users: Int64Array, items: Int64Array) -> Matrix:
    known_users, user_numbers = np.unique(users, return_inverse=True)
    known_items, item_numbers = np.unique(items, return_inverse=True)
    return Matrix.of_pairs(user_numbers, item_numbers, len(known_users), len(known_items))


def _read_table(path: Path, names: Sequence[str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float64]]:
    try:
        table = parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise BadMatrix(f"{path}: {error}") from None
    user, item, weight = names
    columns = {}
    for name in names:
        if name not in table.column_names:
            if name == weight:
                continue
            raise BadMatrix(f"{path}: must have a column {name}, got {table.column_names}; --columns names those of the file")
        if missing := table.column(name).null_count:
            raise BadMatrix(f"{path}: {name} must be there in every row, got {missing} rows without")
        columns[name] = table.column(name).to_numpy()
    weights = columns.get(weight, np.ones(table.num_rows))
    if not np.issubdtype(weights.dtype, np.number) and weights.dtype != np.bool_:
        raise BadMatrix(f"{path}: weight must be a number, got {table.schema.field(weight).type}")
    return columns[user], columns[item], weights.astype(np.float64)


def _read_npz(path: Path) -> tuple[Int64Array, Int64Array, npt.NDArray[np.float64]]:
    if path.exists() and not zipfile.is_zipfile(path):
        raise BadMatrix(f"{path}: must be an archive as numpy.savez writes it, got another kind of file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found: Mapping[str, npt.NDArray[Any]] = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadMatrix(f"{path}: {error}") from None
    if "format" in found and (kind := np.atleast_1d(found["format"])[0]) not in ("csr", b"csr"):
        raise BadMatrix(f"{path}: format must be csr, as scipy's tocsr() gives it, got {str(kind)!r}")
    for name in ("shape", "indptr", "indices"):
        if name not in found:
            raise BadMatrix(f"{path}: must have an array {name}, got {sorted(found)}")
        if found[name].dtype.kind not in "iu" or found[name].ndim != 1:
            raise BadMatrix(f"{path}: {name} must be whole numbers in one row, got {found[name].dtype} of shape {found[name].shape}")
    if len(found["shape"]) != 2:
        raise BadMatrix(f"{path}: shape must be users and items, got {found['shape']!r}")
    shape, bounds, items = found["shape"].tolist(), found["indptr"], found["indices"]
    weights = found.get("data", np.ones(len(items)))
    if len(bounds) != shape[0] + 1 or bounds[0] != 0 or bounds[-1] != len(items) or np.any(np.diff(bounds) < 0):
        raise BadMatrix(f"{path}: indptr must ascend from 0 to {len(items)} in {shape[0] + 1} values, got {bounds!r}")
    if len(items) and not (items.min() >= 0 and items.max() < shape[1]):
        raise BadMatrix(f"{path}: indices must be in [0, {shape[1]}), got {items.min()} to {items.max()}")
    if len(weights) != len(items):
        raise BadMatrix(f"{path}: data must be as long as indices, {len(items)}, got {len(weights)}")
    users = np.repeat(np.arange(shape[0]), np.diff(bounds))
    return users, items.astype(np.int64), weights.astype(np.float64)

"""Rows of each fid as a torch module with TorchRec's types: KeyedJaggedTensor in, a JaggedTensor of rows for each feature out.

Letters: B rows of the batch, F features, n fids of a feature, D its dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from monolith_py.table.bags import EmbeddingBags
from monolith_py.table.feature import Feature
from monolith_py.table.optimizers import Optimizer

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor


class EmbeddingCollection(nn.Module):
    """One table for each feature; forward returns the row of each fid, backward updates the rows: for attention and transformers.

    `bags` has the tables, and all that `EmbeddingBags` says of training, event time, frozen features and files.

    >>> from monolith_py.table import Sgd
    >>> from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    >>> collection = EmbeddingCollection([Feature("videos", dim=4)], optimizer=Sgd(lr=1.0))
    >>> kjt = KeyedJaggedTensor.from_lengths_sync(keys=["videos"], values=torch.tensor([7, 8, 7]), lengths=torch.tensor([1, 2]))
    >>> rows = collection(kjt)["videos"]
    >>> rows.values().shape, rows.lengths().tolist()
    (torch.Size([3, 4]), [1, 2])
    >>> rows.values().sum().backward()
    >>> len(collection.bags.tables["videos"])
    2
    """

    def __init__(self, features: Sequence[Feature], optimizer: Optimizer, *, seed: int = 0, defers_steps: bool = False) -> None:
        """Make one empty table for each feature.

        Raises:
            ValueError: a feature has pooling "first", or `EmbeddingBags` refuses the features.
        """
        super().__init__()
        if sequences := [feature.name for feature in features if feature.pooling == "first"]:
            raise ValueError(f"features of an EmbeddingCollection must have no pooling of their own, got 'first' for {sequences}")
        self.bags = EmbeddingBags(features, optimizer, seed=seed, defers_steps=defers_steps)

    def forward(self, kjt: KeyedJaggedTensor, now_s: float | None = None) -> dict[str, JaggedTensor]:
        """Return the rows of each feature, float32 (n, D), with its lengths int64 (B,); a fid without a row reads zeros.

        Features of few fids cost as much memory as the one of most.

        Raises:
            ValueError: the tensor has weights, or `EmbeddingBags.forward` refuses it.
        """
        from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

        if kjt.weights_or_none() is not None:
            raise ValueError("kjt must have no weights: an EmbeddingCollection pools nothing")
        names = [feature.name for feature in self.bags.features]
        parts = [kjt[name] for name in names]
        longest = max(len(part.values()) for part in parts)
        # Each fid is a bag of its own; empty bags make the features equally long.
        lengths = torch.zeros(len(parts), longest, dtype=torch.int64)
        for place, part in enumerate(parts):
            lengths[place, : len(part.values())] = 1
        singles = KeyedJaggedTensor(keys=names, values=torch.cat([part.values() for part in parts]), lengths=lengths.view(-1))
        rows: Tensor = self.bags(singles, now_s).values()  # (longest, sum of dims)
        found, start = {}, 0
        for feature, part in zip(self.bags.features, parts, strict=True):
            values = rows[: len(part.values()), start : start + feature.dim]
            found[feature.name] = JaggedTensor(values=values, lengths=part.lengths())
            start += feature.dim
        return found

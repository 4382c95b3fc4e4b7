"""Rows of each fid, as TorchRec's EmbeddingCollection gives them, with gradients."""

from __future__ import annotations

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.table import EmbeddingCollection, Feature, Sgd

VALUES, LENGTHS = [7, 8, 7, 5, 9], [0, 2, 1, 1, 0, 1]  # "videos" has bags of 0, 2 and 1 fids, "authors" of 1, 0 and 1


def kjt_of(**options: torch.Tensor) -> KeyedJaggedTensor:
    lengths, values = torch.tensor(LENGTHS), torch.tensor(VALUES)
    return KeyedJaggedTensor.from_lengths_sync(keys=["videos", "authors"], values=values, lengths=lengths, **options)


def collection_of(**options: int) -> EmbeddingCollection:
    return EmbeddingCollection([Feature("authors", dim=8), Feature("videos", dim=4)], optimizer=Sgd(lr=1.0), **options)


def test_each_fid_has_its_row_and_its_bag() -> None:
    collection = collection_of()
    found = collection(kjt_of())
    assert list(found) == ["authors", "videos"]
    assert found["videos"].lengths().tolist() == [0, 2, 1]
    assert found["authors"].lengths().tolist() == [1, 0, 1]
    fids, rows, *_ = collection.bags.tables["videos"].export_rows()
    known = dict(zip(fids.tolist(), torch.from_numpy(rows), strict=True))
    for fid, row in zip([7, 8, 7], found["videos"].values(), strict=True):
        torch.testing.assert_close(row.detach(), known[fid])
    assert found["authors"].values().shape == (2, 8)


def test_the_gradient_of_a_row_is_summed_over_its_places() -> None:
    collection = collection_of()
    before = collection(kjt_of())["videos"].values().detach().clone()
    found = collection(kjt_of())
    (found["videos"].values() * torch.tensor([[1.0], [2.0], [4.0]])).sum().backward()
    with torch.no_grad():
        after = collection(kjt_of())["videos"].values()
    torch.testing.assert_close(before - after, torch.tensor([[5.0], [2.0], [5.0]]).expand(3, 4))


def test_no_fids_at_all_give_no_rows() -> None:
    empty = KeyedJaggedTensor.from_lengths_sync(
        keys=["videos", "authors"], values=torch.empty(0, dtype=torch.int64), lengths=torch.zeros(4, dtype=torch.int64)
    )
    found = collection_of()(empty)
    assert found["videos"].values().shape == (0, 4)
    assert found["authors"].lengths().tolist() == [0, 0]


def test_what_it_would_ignore_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have no pooling of their own, got 'first' for \['videos'\]"):
        EmbeddingCollection([Feature("videos", dim=4, pooling="first", length=3)], optimizer=Sgd(lr=1.0))
    with pytest.raises(ValueError, match="kjt must have no weights"):
        collection_of()(kjt_of(weights=torch.ones(len(VALUES))))

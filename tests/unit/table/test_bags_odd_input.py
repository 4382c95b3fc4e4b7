"""Odd input of bags is right or refused by name: times, names, shapes, empty batches."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.table import Admission, EmbeddingBags, Feature, MemoryBudget, Sgd

DIM = 4


def make_bags() -> EmbeddingBags:
    bags = EmbeddingBags([Feature("a", dim=DIM)], Sgd())
    bags.now_s = 0
    return bags


def kjt(*bags: list[int], names: str = "a") -> KeyedJaggedTensor:
    values = torch.tensor([fid for bag in bags for fid in bag], dtype=torch.int64)
    return KeyedJaggedTensor.from_lengths_sync(keys=list(names), values=values, lengths=torch.tensor([len(bag) for bag in bags]))


def test_a_time_is_a_number_of_seconds() -> None:
    bags = make_bags()
    bags(kjt([1]), now_s=1_700_000_000.75)
    assert bags.now_s == 1_700_000_000
    for wrong in ("now", math.nan, 2.0**41, None):
        with pytest.raises(ValueError, match="now_s must be"):
            bags.now_s = wrong  # type: ignore[assignment]


@pytest.mark.parametrize(
    "settings",
    [{"ttl_s": 10}, {"budget": MemoryBudget(10**6)}, {"admit_after": 2, "admission": Admission("sketch")}],
    ids=["ttl", "budget", "sketch"],
)
def test_settings_of_time_without_a_time_warn_once(settings: dict[str, Any]) -> None:
    bags = EmbeddingBags([Feature("a", dim=DIM, **settings), Feature("b", dim=DIM)], Sgd())
    with pytest.warns(UserWarning, match=r"now_s was never set, so rows and counts of \['a'\] do not age: give it to forward"):
        bags(kjt([1], [1], names="ab"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bags(kjt([1], [1], names="ab"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a feature must be a file name"):
        Feature(name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"values": torch.ones(2, 2, dtype=torch.int64)},
            r"values of the KeyedJaggedTensor must be int64 \(n,\), got torch.int64 \(2, 2\)",
        ),
        ({"values": torch.ones(2)}, r"values of the KeyedJaggedTensor must be int64 \(n,\), got torch.float32 \(2,\)"),
        ({"weights": torch.ones(3)}, r"weights of the KeyedJaggedTensor must have the shape of its values, \(2,\), got \(3,\)"),
        ({"weights": torch.ones(2, 1)}, r"weights of the KeyedJaggedTensor must have the shape of its values, \(2,\), got \(2, 1\)"),
        ({"keys": ["a", "a"]}, r"features of the KeyedJaggedTensor must have different names, got \['a', 'a'\]"),
        ({"inverse_indices": (["a"], torch.tensor([[0, 1, 0]]))}, "the KeyedJaggedTensor must have no inverse_indices"),
        ({"stride_per_key_per_rank": [[2]]}, "the KeyedJaggedTensor must have one batch size for all features, got one for each"),
        ({"lengths": torch.tensor([3, -1])}, "offsets must not decrease, got 2 after 3"),
        ({"lengths": torch.tensor([1, 2])}, "offsets must end at the number of fids, 2, got 3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_odd_shape_is_refused_by_name_and_counts_nothing(settings: dict[str, Any], message: str) -> None:
    bags = make_bags()
    given = {"keys": ["a"], "values": torch.tensor([1, 2]), "lengths": torch.tensor([1, 1]), **settings}
    with pytest.raises(ValueError, match=message):
        bags(KeyedJaggedTensor(**given))
    assert len(bags.tables["a"]) == 0


def test_a_feature_of_another_dim_than_its_table_is_refused() -> None:
    with pytest.raises(ValueError, match="dim of feature 'b' must be that of table 'a', 4, got 8"):
        EmbeddingBags([Feature("a", dim=4), Feature("b", dim=8, table="a")], Sgd())


def test_no_rows_and_no_fids_are_fine() -> None:
    bags = make_bags()
    for empty in (kjt(), kjt([]), kjt([], [])):
        pooled = bags(empty).values()
        assert pooled.shape[1] == DIM
        pooled.sum().backward()
    assert len(bags.tables["a"]) == 0


def test_training_in_several_processes_is_refused() -> None:
    """Each process would have tables of its own, which diverge."""
    bags = make_bags()
    distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        with pytest.raises(RuntimeError, match="EmbeddingBags must train in one process, got 2: their tables would diverge"):
            bags(kjt([1]))
        assert bags.eval()(kjt([1])).values().shape == (1, DIM)
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own work
def test_a_compiled_model_learns_as_it_does_without() -> None:
    one, other = make_bags(), make_bags()
    compiled = torch.compile(lambda batch: one(batch).values().square().sum(), backend="eager")
    for _ in range(2):
        compiled(kjt([1, 2], [2])).backward()
        other(kjt([1, 2], [2])).values().square().sum().backward()
    assert (one.tables["a"].lookup([1, 2]) == other.tables["a"].lookup([1, 2])).all()

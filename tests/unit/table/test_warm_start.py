"""Tables that start from trained weights of torch, TorchRec and safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.errors import CheckpointError
from monolith_py.table import EmbeddingBags, EmbeddingTable, Feature, Sgd, assign_weights, warm_start

BAGS = [EmbeddingBagConfig(name=f"t_{name}", embedding_dim=8, num_embeddings=20, feature_names=[name]) for name in ("user", "item")]


def make_tables() -> dict[str, EmbeddingTable]:
    return {name: EmbeddingTable(8, Sgd(), name=name) for name in ("user", "item", "city")}


def test_bags_that_start_from_a_collection_pool_as_it_does() -> None:
    trained = EmbeddingBagCollection(tables=BAGS)
    bags = EmbeddingBags([Feature("user", dim=8), Feature("item", dim=8)], Sgd())
    assert warm_start(bags.tables, trained, now_s=0, names={"user": "t_user", "item": "t_item"}) == {"user": 20, "item": 20}
    kjt = KeyedJaggedTensor.from_lengths_sync(
        keys=["user", "item"], values=torch.tensor([3, 19, 0, 4, 4]), lengths=torch.tensor([2, 1, 0, 2])
    )
    assert torch.allclose(bags(kjt).values(), trained(kjt).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_file_of_safetensors_of_any_float_is_taken(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = torch.randn(50, 8).to(dtype)
    save_file({"embeddings.user.weight": weights, "city": weights[:3].clone(), "tower.0.bias": torch.zeros(2)}, tmp_path / "model")
    tables = make_tables()
    assert warm_start(tables, tmp_path / "model", now_s=0) == {"user": 50, "city": 3}
    assert (tables["user"].lookup(np.arange(50)) == weights.float().numpy()).all()
    assert len(tables["item"]) == 0


def test_an_embedding_collection_and_a_state_dict_are_taken() -> None:
    trained = EmbeddingCollection(tables=[EmbeddingConfig(name="user", embedding_dim=8, num_embeddings=5, feature_names=["user"])])
    for source in (trained, trained.state_dict()):
        tables = make_tables()
        assert warm_start(tables, source, now_s=0) == {"user": 5}


def test_weights_go_to_the_fids_given() -> None:
    table, trained = make_tables()["user"], nn.EmbeddingBag(3, 8)
    assert assign_weights(table, trained, now_s=0, fids=[10, -20, 30]) == 3
    assert (table.lookup([-20])[0] == trained.weight[1].detach().numpy()).all()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tables = make_tables()
    with pytest.raises(ValueError, match=r"weights for table 'user' must be \(n, 8\), got \(3, 4\)"):
        assign_weights(tables["user"], nn.Embedding(3, 4), now_s=0)
    with pytest.raises(ValueError, match="fids must be one for each of 3 rows, got 2"):
        assign_weights(tables["user"], nn.Embedding(3, 8), now_s=0, fids=[1, 2])
    with pytest.raises(ValueError, match="source must have weights of one of the tables"):
        warm_start(tables, {"other": torch.zeros(2, 8)}, now_s=0)
    with pytest.raises(ValueError, match="weights of table 'item' must be one of"):
        warm_start(tables, {"user": torch.zeros(2, 8)}, now_s=0, names={"item": "t_item"})
    with pytest.raises(ValueError, match="names must be of tables"):
        warm_start(tables, {"user": torch.zeros(2, 8)}, now_s=0, names={"shop": "t_item"})
    with pytest.raises(CheckpointError, match="absent"):
        warm_start(tables, tmp_path / "absent", now_s=0)

"""Rows are saved where users think they are: state_dict holds them, and save writes all tables or none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.errors import CheckpointError
from monolith_py.table import Adagrad, EmbeddingBags, EmbeddingTable, Feature, Sgd, read_settings


def make_bags(**settings: float) -> EmbeddingBags:
    return EmbeddingBags([Feature(name, dim=4, **settings) for name in "ab"], Adagrad(lr=0.5))  # type: ignore[arg-type]


def kjt(*fids: int) -> KeyedJaggedTensor:
    count = len(fids)
    return KeyedJaggedTensor.from_lengths_sync(keys=["a", "b"], values=torch.tensor([*fids, *fids]), lengths=torch.tensor([count, count]))


def learn(bags: EmbeddingBags, *fids: int) -> EmbeddingBags:
    bags(kjt(*fids), now_s=10).values().sum().backward()
    return bags


def assert_same(one: EmbeddingBags, other: EmbeddingBags) -> None:
    for name, table in one.tables.items():
        for left, right in zip(table.export_rows(), other.tables[name].export_rows(), strict=True):
            np.testing.assert_array_equal(left, right)
        rows = table.find(table.export_rows()[0])
        np.testing.assert_array_equal(
            table.state(rows), other.tables[name].state(other.tables[name].find(table.export_rows()[0])), err_msg=name
        )


def test_a_state_dict_holds_the_rows_through_torch_save() -> None:
    model, file = nn.Sequential(learn(make_bags(), 1, 2, 3)), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin = nn.Sequential(learn(make_bags(), 7))
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert_same(model[0], twin[0])
    learn(model[0], 1, 9)
    assert_same(model[0], nn.Sequential(learn(twin[0], 1, 9))[0])


def test_a_state_dict_without_rows_is_refused() -> None:
    state = make_bags().state_dict()
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="Missing key"):
        make_bags().load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"got none for \['b'\]"):
        make_bags().set_extra_state({"a": torch.zeros(4, dtype=torch.uint8)})


def test_a_save_that_fails_at_the_second_table_leaves_the_last_one_whole(tmp_path: Path) -> None:
    bags = learn(make_bags(), 1, 2)
    bags.save(tmp_path)
    learn(bags, 3)
    other = bags.tables["b"].start_saving(tmp_path / "elsewhere")  # a table has one snapshot at a time
    with pytest.raises(ValueError, match="a snapshot of this table is in progress"):
        bags.save(tmp_path)
    other.cancel()
    restored = make_bags()
    restored.restore(tmp_path)
    assert [len(table) for table in restored.tables.values()] == [2, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.table", "b.table", "tables.json"]


def test_files_of_two_saves_are_refused_and_nothing_is_restored(tmp_path: Path) -> None:
    bags = learn(make_bags(), 1)
    bags.save(tmp_path / "first")
    learn(bags, 2).save(tmp_path / "second")
    (tmp_path / "second" / "b.table").replace(tmp_path / "first" / "b.table")
    restored = make_bags()
    with pytest.raises(CheckpointError, match=r"b\.table: is of another call of save"):
        restored.restore(tmp_path / "first")
    assert [len(table) for table in restored.tables.values()] == [0, 0]


def test_a_folder_is_made_and_may_be_a_string(tmp_path: Path) -> None:
    bags, restored = learn(make_bags(), 1), make_bags()
    bags.save(f"{tmp_path}/a/b")
    restored.restore(f"{tmp_path}/a/b")
    assert_same(bags, restored)
    with pytest.raises(CheckpointError, match=r"tables must be empty to be restored, got rows in \['a', 'b'\]"):
        restored.restore(f"{tmp_path}/a/b")


@pytest.mark.parametrize("change", [{"ttl_s": 50}, {"ttl_s": 5_000_000}, {"admit_after": 3}, {"init_scale": 0.5}], ids=str)
def test_settings_that_do_not_lay_out_a_row_may_change_across_a_restore(change: dict[str, float], tmp_path: Path) -> None:
    """TTL, admission and start values changed after a restart: the rows and their ages go on."""
    bags, other = learn(make_bags(ttl_s=500), 1, 2), make_bags(**{"ttl_s": 500, **change})
    bags.save(tmp_path)
    other.restore(tmp_path)
    assert_same(bags, other)
    ttl_s = int(change.get("ttl_s", 500))
    step_s = -(-ttl_s // 1000)
    assert other.evict(10 + ttl_s - step_s)["a"].tolist() == []
    assert other.evict(10 + ttl_s + 2 * step_s)["a"].tolist() == [1, 2]


def test_the_rate_of_the_last_increment_counts(tmp_path: Path) -> None:
    table = EmbeddingTable(4, Sgd(lr=1.0), initializer="zeros")
    table.find_or_insert([1], 0)
    for number, lr in enumerate((1.0, 0.25)):
        table.set_lr(lr)
        saving = table.start_saving(tmp_path / f"{number}", increment=number > 0)
        saving.finish()
        saving.commit(track=True)
    restored = EmbeddingTable.restore(tmp_path / "0", tmp_path / "1")
    restored.update(restored.find([1]), np.ones((1, 4), np.float32))
    assert restored.lookup([1])[0].tolist() == [-0.25] * 4
    assert read_settings(tmp_path / "1").slices[0].hyperparameters["lr"] == 0.25


def test_a_consumer_that_does_not_return_can_be_forgotten() -> None:
    table = EmbeddingTable(4, Sgd(), ttl_s=10)
    table.drain("gone")
    empty = table.stats().bytes
    for turn in range(20):
        table.find_or_insert(np.arange(1_000) + 1_000 * turn, 20 * turn)
        table.evict(20 * turn)
    assert 20_000 <= table.consumers()["gone"] <= 25_000
    assert table.stats().bytes > empty + 19_000 * 30
    table.forget("gone")
    assert table.consumers() == {}
    with pytest.raises(ValueError, match=r"consumer must be one of \[\], got 'gone'"):
        table.forget("gone")


def test_the_second_of_two_writers_of_one_snapshot_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    one, other = EmbeddingTable(4, Sgd()), EmbeddingTable(4, Sgd())
    one.find_or_insert([1, 2], 0)
    saving = one.start_saving(tmp_path / "t")
    with pytest.raises(CheckpointError, match="another snapshot is being written there"):
        other.save(tmp_path / "t")
    saving.finish()
    saving.commit()
    other.save(tmp_path / "u")
    assert len(EmbeddingTable.restore(tmp_path / "t")) == 2

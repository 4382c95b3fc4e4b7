"""MultVAE on user-item matrices: what files are taken, who is held out, how lists are scored, and that sparse layers learn."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest
import torch

from monolith_py.config.sparsity import SparsityConfig

Evidence = Callable[[str], ModuleType]
# User "a" has items 7 and 9, "b" has 9; a pair repeats, one weighs nothing.
PAIRS = {"user": ["a", "b", "a", "a", "b"], "item": [9, 9, 7, 9, 7], "weight": [1.0, 2.0, 1.0, 0.5, 0.0]}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(evidence: Evidence) -> ModuleType:
    return evidence("multvae_data")


@pytest.fixture(scope="module")
def model(evidence: Evidence) -> ModuleType:
    return evidence("multvae_model")


def write(path: Path, columns: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **columns)
    else:
        (parquet.write_table if path.suffix == ".parquet" else csv.write_csv)(pa.table(columns), path)
    return path


def csr(**other: Any) -> dict[str, Any]:
    return {"shape": [2, 3], "indptr": [0, 2, 3], "indices": [2, 1, 2], "data": [1.0, 1.0, 1.0], "format": "csr"} | other


def taste_matrix(data: ModuleType, num_users: int = 300, num_items: int = 48) -> Any:
    """Return a matrix of users who have eight of the sixteen items of their own of three kinds."""
    generator = np.random.default_rng(3)
    rows = [16 * (user % 3) + generator.permutation(16)[:8] for user in range(num_users)]
    return data.Matrix.of_pairs(np.repeat(np.arange(num_users), 8), np.concatenate(rows), num_users, num_items)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_table_of_pairs_is_a_matrix_without_repeats_and_weightless_pairs(data: ModuleType, tmp_path: Path, suffix: str) -> None:
    matrix = data.load_matrix(write(tmp_path / f"pairs{suffix}", PAIRS))
    np.testing.assert_array_equal(matrix.dense(np.arange(2)), [[1, 1], [0, 1]])


def test_weights_may_be_absent(data: ModuleType, tmp_path: Path) -> None:
    matrix = data.load_matrix(write(tmp_path / "pairs.csv", {name: PAIRS[name] for name in ("user", "item")}))
    np.testing.assert_array_equal(matrix.dense(np.arange(2)), [[1, 1], [1, 1]])


def test_columns_may_have_other_names(data: ModuleType, tmp_path: Path) -> None:
    movies = {"userId": PAIRS["user"], "movieId": PAIRS["item"], "rating": PAIRS["weight"], "user": [0] * 5}
    matrix = data.load_matrix(write(tmp_path / "ratings.csv", movies), ("userId", "movieId", "rating"))
    np.testing.assert_array_equal(matrix.dense(np.arange(2)), [[1, 1], [0, 1]])
    with pytest.raises(data.BadMatrix, match=r"must have a column item, got \['userId', .*\]; --columns names those of the file"):
        data.load_matrix(tmp_path / "ratings.csv")


def test_a_csr_matrix_is_read_as_it_is(data: ModuleType, tmp_path: Path) -> None:
    matrix = data.load_matrix(write(tmp_path / "matrix.npz", csr()))
    np.testing.assert_array_equal(matrix.dense(np.arange(2)), [[1, 1], [0, 1]])  # nobody has item 0


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("x.csv", {"user": [1], "thing": [2]}, r"x\.csv: must have a column item, got \['user', 'thing'\]"),
        ("x.parquet", {"user": [1, None], "item": [2, 3]}, "user must be there in every row, got 1 rows without"),
        ("x.parquet", {**PAIRS, "weight": [1.0, np.nan, 1.0, 1.0, 1.0]}, "weight must be finite, got 1 that are not"),
        ("x.csv", {**PAIRS, "weight": ["good"] * 5}, "weight must be a number, got string"),
        ("x.csv", {**PAIRS, "weight": [0.0] * 5}, "must have a pair of weight > 0, got 5 pairs without"),
        ("x.npz", {"shape": [1, 1], "indptr": [0, 1]}, r"must have an array indices, got \['indptr', 'shape'\]"),
        ("x.npz", csr(format="coo"), r"format must be csr, as scipy's tocsr\(\) gives it, got 'coo'"),
        ("x.npz", {"shape": [2, 3], "row": [0], "col": [1], "format": b"coo"}, r"format must be csr, .*, got \"b'coo'\""),
        ("x.npz", csr(indptr=[0, 3, 2]), "indptr must ascend from 0 to 3 in 3 values"),
        ("x.npz", csr(indices=[2, 1, 3]), r"indices must be in \[0, 3\), got 1 to 3"),
        ("x.npz", csr(indices=[2.0, 1.0, 2.0]), "indices must be whole numbers in one row, got float64"),
        ("x.npz", csr(shape=[2]), r"shape must be users and items, got array\(\[2\]\)"),
        ("x.npz", csr(data=[1.0]), "data must be as long as indices, 3, got 1"),
    ],
)
def test_what_is_no_matrix_is_told_by_file_field_and_rule(
    data: ModuleType, tmp_path: Path, name: str, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(data.BadMatrix, match=message):
        data.load_matrix(write(tmp_path / name, columns))


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.csv"])
def test_files_that_cannot_be_read_are_told(data: ModuleType, tmp_path: Path, name: str) -> None:
    with pytest.raises(data.BadMatrix, match=name):
        data.load_matrix(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(data.BadMatrix, match=name):
        data.load_matrix(tmp_path / name)


def test_an_unknown_suffix_is_told(data: ModuleType) -> None:
    with pytest.raises(data.BadMatrix, match=r"suffix must be one of .*, got '\.txt'"):
        data.load_matrix(Path("x.txt"))


def test_held_out_users_are_not_trained_on_and_what_they_want_is_not_given(data: ModuleType) -> None:
    matrix = taste_matrix(data)
    split = data.split_users(matrix, np.random.default_rng(1), held_out=0.2)
    assert (len(split.train), len(split.given), len(split.wanted)) == (240, 60, 60)
    given, wanted = (part.dense(np.arange(60)) for part in (split.given, split.wanted))
    assert not (given * wanted).any()
    np.testing.assert_array_equal(given.sum(axis=1), np.full(60, 6))
    np.testing.assert_array_equal(wanted.sum(axis=1), np.full(60, 2))
    # Train and test together are the users that there were.
    both = np.concatenate([split.train.dense(np.arange(240)), given + wanted])
    assert sorted(map(tuple, both)) == sorted(map(tuple, matrix.dense(np.arange(300))))


def test_a_split_that_leaves_nobody_is_refused(data: ModuleType) -> None:
    with pytest.raises(ValueError, match="held_out must leave users on both sides, got 0 and 0 of 9 items or more"):
        data.split_users(taste_matrix(data), np.random.default_rng(1), least=9)


def test_lists_are_scored_by_the_definitions(model: ModuleType) -> None:
    generator = np.random.default_rng(8)
    scores, wanted = generator.random((5, 130)).astype(np.float32), (generator.random((5, 130)) < 0.3).astype(np.float32)
    wanted[0] = 0
    wanted[0, :3] = 1
    got = model.list_metrics(scores, wanted)
    for user in range(5):
        order = sorted(range(130), key=lambda item, user=user: -scores[user, item])
        hits = [wanted[user, item] for item in order]
        count = int(wanted[user].sum())
        for k in (20, 50):
            assert got[f"Recall@{k}"][user] == pytest.approx(sum(hits[:k]) / min(k, count))
        gain = sum(hit / np.log2(place + 2) for place, hit in enumerate(hits[:100]))
        assert got["NDCG@100"][user] == pytest.approx(gain / sum(1 / np.log2(place + 2) for place in range(min(100, count))), rel=1e-5)


@pytest.mark.parametrize("preset", ["dense", "static", "set", "rigl", "dsl", "dsl_online"])
def test_every_preset_learns_tastes_and_keeps_its_budget(evidence: Evidence, data: ModuleType, model: ModuleType, preset: str) -> None:
    split = data.split_users(taste_matrix(data), np.random.default_rng(0))
    recipe = model.Recipe(hidden=32, latent=8, epochs=15, batch_size=40, lr=1e-2)
    sparsity = evidence("multvae").sparsity_of(preset, 0.5, num_steps=15 * 6, every=10, atom=None)
    vae = model.MultVae(split.train.num_items, recipe, sparsity, seed=0)
    learner, order = model.Learner(vae, recipe, sparsity, seed=0), np.random.default_rng(0)
    losses = [learner.epoch(split.train, order) for _ in range(recipe.epochs)]
    assert losses[-1] < losses[0]
    # Of 42 items not given 10 are of the user's kind: a random list of 20 has 48 % of what is wanted.
    assert model.rank_metrics(vae, split)["Recall@20"] > 0.9
    share = 1.0 if preset == "dense" else 0.5
    num_weights = 48 * 32 + 32 * 16 + 8 * 32 + 32 * 48
    assert vae.num_live_weights == share * num_weights
    if preset not in ("dense", "static"):
        assert learner.updater is not None and learner.updater.history.num_swaps > 0


def test_a_sparse_model_with_all_atoms_computes_what_the_dense_one_does(model: ModuleType) -> None:
    recipe = model.Recipe(hidden=32, latent=8)
    dense = model.MultVae(40, recipe, SparsityConfig(), seed=1)
    sparse = model.MultVae(40, recipe, SparsityConfig(preset="gmp", density=0.5), seed=1)  # all live before its ramp
    given = (torch.rand(6, 40, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    assert len(sparse.sparse_layers) == 4 and not dense.sparse_layers
    for one, other in zip(dense(given, None), sparse(given, None), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    one, other = (net(given, torch.Generator().manual_seed(2))[0] for net in (dense, sparse))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_more_items_than_the_core_numbers_leave_the_input_layer_dense(
    evidence: Evidence, model: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = model.Recipe(hidden=16, latent=8)
    sparsity = evidence("multvae").sparsity_of("static", 0.1, 10, 1, "16x1")
    with caplog.at_level(logging.WARNING):
        vae = model.MultVae(65_537, recipe, sparsity, seed=0)
    assert "a layer of 65537 inputs stays dense: the core takes up to 65536" in caplog.text
    assert len(vae.sparse_layers) == 3
    with torch.no_grad():
        assert vae(torch.ones(2, 65_537), None)[0].shape == (2, 65_537)


def test_a_table_row_for_each_model(evidence: Evidence, data: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = taste_matrix(data, 60)
    path = write(tmp_path / "pairs.parquet", {"user": matrix.users, "item": matrix.items})
    status = evidence("multvae").main(
        [str(path), "--epochs", "1", "--seeds", "2", "--densities", "0.2", "--presets", "small", "dsl", "dense"]
    )
    printed = capsys.readouterr()
    rows = [line.split(" | ") for line in printed.out.splitlines() if line.startswith(("| d", "| s"))]
    assert status == 0
    assert re.findall(r"dense 1, seed ([01]): epoch 1 of 1, \d+\.\d\d s each", printed.err) == ["0", "1"]
    assert [row[0].lstrip("| ") for row in rows[-3:]] == ["dense", "small", "dsl"]
    number = r"[01]\.\d{4}"  # 48 items: a list of 50 has them all
    assert all(re.fullmatch(number, cell) for cell in rows[-3][3:6])
    assert all(re.fullmatch(rf"{number} \([+-]{number} ± \d+\.\d{{4}}\)", cell) for row in rows[-2:] for cell in row[3:6])


def test_a_bad_file_ends_with_one_line(evidence: Evidence, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.csv", {"user": [1], "thing": [2]})
    assert evidence("multvae").main([str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"{path}: must have a column item")

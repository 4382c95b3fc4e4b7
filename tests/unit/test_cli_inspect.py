"""`monolith inspect`: a checkpoint, a folder or a table file as text or JSON; a failure is one line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.config import parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.table import EmbeddingTable, Sgd
from monolith_py.training import CheckpointMeta, Quality, Trainer, save_checkpoint
from monolith_py.training.quality import BEFORE_LEARNING, Source

QUALITY = (
    Quality("click", Source("served", "live", "2"), 20_000, 900.0, 0.7345, 0.8714, 1.02, 0.045),
    Quality("click", BEFORE_LEARNING, 20_000, 0.0, math.nan, math.nan, math.nan, 0.0),
)
# Item 11 is seen by all eight users of a batch, item 12 once.
ITEMS = [11, 11, 11, 11, 11, 11, 11, 12]


def monolith(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def cells(result: Result, first: str) -> list[str]:
    """Return the cells of the one line of a printed table that begins with `first`."""
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in result.stdout.splitlines() if "│" in line]
    (found,) = [line for line in lines if line[0] == first]
    return found


def assert_fails(result: Result, line: str) -> None:
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == line + "\n"


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[[], Path]:
    """Return a function that takes one more training step and saves a checkpoint."""
    trainer = Trainer(
        parse_job(
            {
                "name": "shop",
                "log": {"url": f"sqlite:///{tmp_path}/log"},
                "kv": {"url": "memory:"},
                "features": [
                    {"name": "user_id", "source": "user_id", "dim": 4, "ttl_s": 86400},
                    {"name": "video_id", "source": "item_id", "dim": 4, "admit_after": 3, "budget_bytes": 1 << 30},
                ],
                "tasks": [{"name": "click", "action": "click"}],
                "model": {"tower": [4], "precision": "fp32"},
                "optimizer": {"sparse": {"kind": "rowwise_adagrad", "lr": 0.05}},
                "trainer": {"checkpoint_dir": f"{tmp_path}/checkpoints"},
            }
        )
    )

    def make() -> Path:
        ones, num = np.ones(8, np.int32), 8
        sparse = {"user_id": SparseColumn(np.arange(8) - 4, ones), "video_id": SparseColumn(np.array(ITEMS), ones)}
        ids, labels = tuple(map(str, range(num))), {"click": np.ones(num, np.float32)}
        times_ms = np.full(num, 1_700_000_000_000 + trainer.num_batches * 60_000)
        kinds, weights = np.zeros(num, np.uint8), np.ones(num, np.float32)
        trainer.step(ExampleBatch(ids, np.arange(num), times_ms, kinds, weights, labels, FeatureColumns(num, sparse)))
        meta = CheckpointMeta(
            "shop", trainer.num_batches, trainer.num_examples, 2, 17, 23, {0: (5, 3)}, trainer.watermark_ms, 1_800_000_000_000, QUALITY
        )
        return save_checkpoint(tmp_path / "checkpoints", trainer, meta, keep=3).path

    return make


def test_a_checkpoint_is_shown_with_a_line_for_each_table(make_checkpoint: Callable[[], Path]) -> None:
    path = make_checkpoint()
    result = monolith("inspect", path)
    for text in (
        str(path),
        "shop",
        "1 batches, 8 examples",
        "2023-11-14 22:13:20 UTC, event time",
        "2027-01-15 08:00:00 UTC by generation 2",
        "0: 5 + 3 rows",
        "next offset 23, seq 17",
    ):
        assert text in result.stdout
    user, video = cells(result, "user_id"), cells(result, "video_id")
    assert user[1:7] == ["8", "0", "8", "0", "0", "0"]
    assert video[1:7] == ["1", "1", "1", "1", "0", "0"]
    assert user[-1].startswith("dim 4 rowwise_adagrad lr 0.05")
    settings = " ".join(result.stdout.replace("│", " ").split())
    assert "admit after 1 (count), ttl 1 d " in settings
    assert "admit after 3 (count), budget 1.0 GiB score" in settings


def test_the_quality_in_a_checkpoint_is_shown(make_checkpoint: Callable[[], Path]) -> None:
    path = make_checkpoint()
    lines = [line.split() for line in monolith("inspect", path).stdout.replace("│", " ").splitlines() if "20,000" in line]
    assert lines == [
        ["click", "served", "by", "live", "2", "20,000", "0.7345", "0.8714", "1.020", "0.0450"],
        ["click", "before", "learning", "20,000", "-", "-", "-", "0.0000"],
    ]
    served, before = json.loads(monolith("inspect", path, "--json").stdout)["checkpoint"]["quality"]
    assert (served["arm"], served["generation"], served["auc"], before["kind"], before["auc"]) == (
        "live",
        "2",
        0.7345,
        "before learning",
        None,
    )


def test_a_folder_of_checkpoints_shows_the_newest_intact_and_why_others_were_passed_over(make_checkpoint: Callable[[], Path]) -> None:
    first, second = make_checkpoint(), make_checkpoint()
    assert str(second) in monolith("inspect", first.parent).stdout
    (second / "dense.safetensors").unlink()
    result = monolith("inspect", first.parent)
    assert result.exit_code == 0
    assert str(first) in result.stdout
    assert f"refused     {second}/dense.safetensors" in result.stdout
    assert result.stderr == ""


def test_a_feature_is_shown_with_its_sightings_and_ages(make_checkpoint: Callable[[], Path]) -> None:
    make_checkpoint()
    result = monolith("inspect", make_checkpoint(), "--feature", "video_id")
    assert cells(result, "2 - 3")[1:3] == ["0", "1"]  # item 12
    assert cells(result, "8 - 15")[1:3] == ["1", "0"]  # item 11
    assert cells(result, "8 - 15")[3] == cells(result, "2 - 3")[3] == "█" * 40
    assert cells(result, "under 1 min")[1:3] == ["1", "1"]
    assert "before the watermark (kept in steps of 10 s for 3.8 d)" in result.stdout
    assert "user_id" not in result.stdout


def test_a_row_a_candidate_and_an_absent_fid_are_shown(make_checkpoint: Callable[[], Path]) -> None:
    path = make_checkpoint()
    row = monolith("inspect", path, "--feature", "video_id", "--id", 11)
    assert "video_id, fid 11: a row; 7 sightings, last seen 2023-11-14 22:13:20 UTC, 0 s before the watermark" in row.stdout
    table = EmbeddingTable.restore(path / "tables" / "video_id.table")
    (weights,), (state,) = table.gather(table.find([11])), table.state(table.find([11]))
    lines = [line.replace("│", " ").split() for line in row.stdout.splitlines()]
    assert ["weights", "weights", *(f"{value:.6g}" for value in weights)] in lines
    assert ["weights", "n", f"{state[0]:.6g}"] in lines
    candidate = monolith("inspect", path, "--feature", "video_id", "--id", 12).stdout
    assert "video_id, fid 12: a candidate for a row, admitted after 3; 1 sightings, last seen 2023-11-14 22:13:20 UTC" in candidate
    assert monolith("inspect", path, "--feature", "video_id", "--id", 13).stdout.endswith("video_id, fid 13: absent\n")
    assert "user_id, fid -4: a row" in monolith("inspect", path / "tables" / "user_id.table", "--id", -4).stdout


def test_json_is_one_document_with_the_same(make_checkpoint: Callable[[], Path]) -> None:
    path = make_checkpoint()
    document = json.loads(monolith("inspect", path.parent, "--json").stdout)
    assert (document["path"], document["checkpoint"]["step"], document["now_s"]) == (str(path), 1, 1_700_000_000)
    assert {table["name"]: (table["rows"], table["candidates"]) for table in document["tables"]} == {"user_id": (8, 0), "video_id": (1, 1)}
    fid = json.loads(monolith("inspect", path, "--feature", "video_id", "--id", 11, "--json").stdout)["fid"]
    table = EmbeddingTable.restore(path / "tables" / "video_id.table")
    assert (fid["found"], fid["sightings"], fid["seen"]) == ("row", 7, "2023-11-14T22:13:20+00:00")
    assert fid["slices"][0]["weights"] == table.gather(table.find([11]))[0].tolist()
    histograms = json.loads(monolith("inspect", path, "--feature", "video_id", "--json").stdout)["histograms"]
    assert [sum(one["rows"] + one["candidates"] for one in bins) for bins in histograms.values()] == [2, 2]


def test_a_file_of_a_table_that_nothing_was_learnt_into_is_shown(tmp_path: Path) -> None:
    EmbeddingTable(4, Sgd()).save(tmp_path / "[red]new.table")  # a name that rich would take for a colour
    for options in ((), ("--feature", "[red]new"), ("--id", 1)):
        result = monolith("inspect", tmp_path / "[red]new.table", *options)
        assert cells(result, "[red]new")[1:7] == ["0"] * 6
        assert "newest seen  never" in result.stdout


def test_a_failure_is_one_line_that_names_the_file(make_checkpoint: Callable[[], Path], tmp_path: Path) -> None:
    path = make_checkpoint()
    assert_fails(monolith("inspect", tmp_path / "no"), f"CheckpointError: {tmp_path}/no: does not exist")
    assert_fails(monolith("inspect", tmp_path), f"CheckpointError: {tmp_path}: has no checkpoint")
    wrong = f"CheckpointError: {path}: must have a table of feature 'age', got user_id, video_id"
    assert_fails(monolith("inspect", path, "--feature", "age", "--json"), wrong)
    victim = path / "tables" / "video_id.table"
    victim.write_bytes(victim.read_bytes()[:100])
    for place in (path, path.parent, victim):
        result = monolith("inspect", place)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith(f"CheckpointError: {victim}: torn")


def test_an_id_needs_its_feature_and_has_64_bits(make_checkpoint: Callable[[], Path]) -> None:
    path = make_checkpoint()
    for options, word in (
        (("--id", 1), "give --feature with --id"),
        (("--feature", "user_id", "--id", 1 << 63), "less than or equal to 9223372036854775807"),
    ):
        result = monolith("inspect", path, *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert word in " ".join(result.stderr.replace("│", " ").split())

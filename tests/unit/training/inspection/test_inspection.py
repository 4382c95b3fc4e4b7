"""An inspection equals the tables in every number, and refuses a damaged file by name.

Longer than 300 lines: every number is recomputed from the table, and all cases share one trained checkpoint.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from monolith_py.config import JobConfig, SparseOptimizerConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError
from monolith_py.table import (
    NO_ROW,
    Adagrad,
    Adam,
    Admission,
    CosineDecay,
    EmbeddingTable,
    MemoryBudget,
    Sgd,
    Slice,
    optimizer_from,
    read_settings,
)
from monolith_py.table.feature import table_seed
from monolith_py.training import CheckpointMeta, Inspection, Trainer, inspect_checkpoint, save_checkpoint
from monolith_py.training.inspection import Bin

KINDS = SparseOptimizerConfig.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
FEATURES = [
    {"name": "user_id", "source": "user_id", "dim": 8, "ttl_s": 7 * 86400, "budget_bytes": 1 << 30, "eviction": "score", "half_life_s": 60},
    {"name": "tags", "source": "item", "dim": 8, "pooling": "mean", "admit_after": 16, "initializer": "normal", "init_scale": 0.125},
]
NOW_S = 1_700_000_000


@pytest.fixture
def trainer(make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]) -> Trainer:
    """A trainer after three batches: all users have rows, some tags wait for one."""
    trainer = Trainer(make_job(features=FEATURES, optimizer={"sparse": {"kind": "adam", "lr": 0.05, "beta1": 0.75}}))
    for seed in range(3):
        trainer.step(make_examples(seed))
    return trainer


def meta_of(trainer: Trainer) -> CheckpointMeta:
    offsets = {1: (9, 0), 0: (5, 3)}
    return CheckpointMeta(
        "training", trainer.num_batches, trainer.num_examples, 2, 17, 23, offsets, trainer.watermark_ms, 1_800_000_000_123
    )


def save(directory: Path, trainer: Trainer) -> Path:
    return save_checkpoint(directory, trainer, meta_of(trainer), keep=3).path


def save_table(directory: Path, table: EmbeddingTable) -> Path:
    table.save(directory / "item.table")
    return directory / "item.table"


def test_it_tells_what_the_checkpoint_and_its_tables_tell(trainer: Trainer, tmp_path: Path) -> None:
    path = save(tmp_path, trainer)
    found = inspect_checkpoint(path)
    assert (found.path, found.meta, found.refused) == (path, meta_of(trainer), ())
    assert found.now_s == trainer.watermark_ms // 1000 == NOW_S + 120
    assert (found.histograms, found.fid) == (None, None)
    assert {report.name for report in found.tables} == {"tags", "user_id"}
    for report in found.tables:
        assert report.stats == EmbeddingTable.restore(path / "tables" / f"{report.name}.table").stats()
        theirs, ours = asdict(trainer.bags.tables[report.name].stats()), asdict(report.stats)
        for count in ("rows", "candidates", "admitted", "filtered", "evicted", "freed"):
            assert ours[count] == theirs[count], count
        assert report.id_map_load == (ours["rows"] + ours["candidates"]) / ours["id_map_capacity"]
    tags = found.tables[0].stats
    assert tags.rows > 0 and tags.candidates > 0 and tags.filtered > 0


def test_it_tells_the_settings_in_the_words_of_the_job(trainer: Trainer, tmp_path: Path) -> None:
    tags, user_id = (report.settings for report in inspect_checkpoint(save(tmp_path, trainer)).tables)
    assert (user_id.dim, user_id.seed, user_id.admit_after, user_id.ttl_s, user_id.seen_step_s) == (
        8,
        table_seed(0, "user_id"),
        1,
        7 * 86400,
        605,
    )
    assert user_id.budget == MemoryBudget(1 << 30, "score", half_life_s=60)
    assert (tags.dim, tags.seed, tags.admit_after, tags.admission, tags.ttl_s, tags.budget) == (
        8,
        table_seed(0, "tags"),
        16,
        Admission(),
        None,
        None,
    )
    (part,) = tags.slices
    assert (part.name, part.dim, part.optimizer, part.initializer, part.init_scale) == ("weights", 8, "adam", "normal", 0.125)
    assert part.hyperparameters == Adam(lr=0.05, beta1=0.75).hyperparameters()


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_of_every_rule_and_the_parts_of_its_state_are_read(tmp_path: Path, kind: str) -> None:
    rule = optimizer_from(SparseOptimizerConfig(kind=kind, lr=0.25, weight_decay=0.5))  # type: ignore[arg-type]
    table = EmbeddingTable(8, slices=[Slice("a", 4, Sgd()), Slice("b", 4, rule, "xavier", 0.5, "int4")], seed=7)
    rows = table.find_or_insert([1], 0)
    plain, part = read_settings(save_table(tmp_path, table)).slices
    assert (plain.name, plain.optimizer, plain.state_parts(), plain.encoding) == ("a", "sgd", {}, "fp16")
    assert (part.optimizer, part.initializer, part.init_scale, part.encoding) == (kind, "xavier", 0.5, "int4")
    assert part.hyperparameters == rule.hyperparameters()
    assert set(part.hyperparameters) == {field.name for field in fields(rule)}
    assert sum(part.state_parts().values()) == table.state(rows).shape[1]


@pytest.mark.parametrize("kind", ["count", "sketch", "proportional", "geometric"])
@pytest.mark.parametrize("eviction", ["lru", "lfu", "score", None])
def test_admission_and_budget_are_read(tmp_path: Path, kind: str, eviction: str | None) -> None:
    admission = Admission(kind, sketch_bytes=1 << 14, window_s=100) if kind == "sketch" else Admission(kind)  # type: ignore[arg-type]
    budget = MemoryBudget(1 << 40, eviction, half_life_s=5) if eviction else None  # type: ignore[arg-type]
    table = EmbeddingTable(4, Sgd(), admit_after=9, admission=admission, budget=budget, ttl_s=5, seed=(1 << 63) + 1)
    got = read_settings(save_table(tmp_path, table))
    assert (got.admit_after, got.admission, got.budget, got.ttl_s, got.seen_step_s) == (9, admission, budget, 5, 1)
    assert got.seed == (1 << 63) + 1


def test_a_rate_that_a_schedule_has_brought_to_zero_is_read(tmp_path: Path) -> None:
    table = EmbeddingTable(4, Adagrad(lr=CosineDecay(0.1, steps=1)))
    for _ in range(2):
        table.update(table.find_or_insert([1], 0), np.ones((1, 4), np.float32))
    assert read_settings(save_table(tmp_path, table)).slices[0].hyperparameters["lr"] == 0


def counted(bins: tuple[Bin, ...]) -> dict[tuple[int, int], int]:
    """Return how many rows and candidates there are from each bin's first value on, for bins that have any."""
    counts = {}
    for one in bins:
        for place, number in enumerate((one.rows, one.candidates)):
            if number:
                counts[one.first, place] = number
    return counts


@pytest.mark.parametrize("feature", ["user_id", "tags"])
def test_histograms_hold_every_entry_once_in_the_bin_that_it_is_of(trainer: Trainer, tmp_path: Path, feature: str) -> None:
    found = inspect_checkpoint(save(tmp_path, trainer), feature)
    (report,), histograms = found.tables, found.histograms
    assert histograms is not None
    assert report.name == feature
    entries = trainer.bags.tables[feature].entries()
    places = (entries.rows == NO_ROW).astype(int).tolist()
    sightings, ages = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for count, seen_s, place in zip(entries.counts.tolist(), entries.seen_s.tolist(), places, strict=True):
        sightings[2 ** (count.bit_length() - 1), place] += 1
        age_s = trainer.watermark_ms // 1000 - seen_s
        ages[max(first for first in (0, 60, 300, 900, 3600) if first <= age_s), place] += 1
    assert counted(histograms.sightings) == sightings
    assert counted(histograms.ages_s) == ages
    for bins in (histograms.sightings, histograms.ages_s):
        assert sum(one.rows for one in bins) == report.stats.rows
        assert sum(one.candidates for one in bins) == report.stats.candidates
        assert all(one.last is not None and one.last + 1 == after.first for one, after in pairwise(bins))


def test_ages_of_a_table_s_file_count_back_from_its_newest_sighting(tmp_path: Path) -> None:
    table = EmbeddingTable(4, Sgd())
    minute, hour, day = 60, 3600, 86400
    ages = [0, minute - 10, minute, 5 * minute - 10, 5 * minute, hour - 10, hour, 12 * hour, 3 * day - 10, 3 * day]
    for age_s in sorted(ages, reverse=True):
        for _ in range(3):  # a time far from the last one is believed when it comes again
            table.find_or_insert([age_s], NOW_S - age_s)
    found = inspect_checkpoint(save_table(tmp_path, table), "item")
    assert (found.meta, found.now_s) == (None, NOW_S)
    assert found.histograms is not None
    first_and_rows = {first: number for (first, _), number in counted(found.histograms.ages_s).items()}
    assert first_and_rows == {0: 2, minute: 2, 5 * minute: 1, 15 * minute: 1, hour: 1, 12 * hour: 1, day: 1, 3 * day: 1}


@pytest.mark.parametrize("ttl_s", [None, 1, 86_400, 90_000])
def test_times_are_kept_in_the_steps_and_for_the_span_that_are_told(tmp_path: Path, ttl_s: int | None) -> None:
    table = EmbeddingTable(4, Sgd(), ttl_s=ttl_s)
    settings = read_settings(save_table(tmp_path, table))
    step_s, span_s = settings.seen_step_s, settings.seen_span_s
    ages_s = (4 * span_s, span_s, span_s - step_s - 1, 1, 0)
    for place, age_s in enumerate(ages_s):
        for _ in range(3):  # a time far from the last one is believed when it comes again
            table.find_or_insert([place], NOW_S - age_s)
    entries = table.entries()
    seen_s = dict(zip(entries.fids.tolist(), entries.seen_s.tolist(), strict=True))
    for place in (2, 3, 4):
        assert seen_s[place] == (NOW_S - ages_s[place]) // step_s * step_s
    assert span_s - step_s <= NOW_S - seen_s[0] < 4 * span_s


def test_counts_that_are_full_are_in_an_open_bin(tmp_path: Path) -> None:
    table = EmbeddingTable(4, Sgd())
    table.find_or_insert(np.full(70_000, 7), NOW_S)
    table.find_or_insert([8], NOW_S)
    found = inspect_checkpoint(save_table(tmp_path, table), "item")
    assert found.histograms is not None
    assert found.histograms.sightings[0] == Bin(1, 1, 1, 0)
    assert found.histograms.sightings[-1] == Bin(32_768, None, 1, 0)


def test_a_row_is_told_as_the_table_has_it(trainer: Trainer, tmp_path: Path) -> None:
    path, table = save(tmp_path, trainer), trainer.bags.tables["user_id"]
    entries = table.entries()
    fid = int(entries.fids[0])
    found = inspect_checkpoint(path, "user_id", fid)
    assert found.fid is not None and found.histograms is None
    assert (found.fid.fid, found.fid.found) == (fid, "row")
    assert (found.fid.sightings, found.fid.seen_s) == (entries.counts[0], entries.seen_s[0])
    (part,) = found.fid.slices
    rows = table.find([fid])
    assert part.weights == table.gather(rows)[0].tolist()
    assert list(part.state) == ["m", "v", "step"]
    assert [value for values in part.state.values() for value in values] == table.state(rows)[0].tolist()
    assert part.state["step"][0] in (1, 2, 3)


def test_a_row_of_several_slices_is_told_slice_by_slice(tmp_path: Path) -> None:
    table = EmbeddingTable(12, slices=[Slice("fast", 4, Adagrad()), Slice("bias", 4, Sgd()), Slice("slow", 4, Adam())])
    rows = table.find_or_insert([-(1 << 63)], NOW_S)
    table.update(rows, np.arange(12, dtype=np.float32)[None])
    found = inspect_checkpoint(save_table(tmp_path, table), fid=-(1 << 63)).fid
    assert found is not None
    weights, state = table.gather(rows)[0], table.state(rows)[0]
    assert [part.name for part in found.slices] == ["fast", "bias", "slow"]
    assert [part.weights for part in found.slices] == weights.reshape(3, 4).tolist()
    assert [part.state for part in found.slices] == [
        {"n": state[:4].tolist()},
        {},
        {"m": state[4:8].tolist(), "v": state[8:12].tolist(), "step": [1.0]},
    ]


def test_a_candidate_and_an_absent_fid_are_told_apart(trainer: Trainer, tmp_path: Path) -> None:
    path, entries = save(tmp_path, trainer), trainer.bags.tables["tags"].entries()
    at = int(np.flatnonzero(entries.rows == NO_ROW)[0])
    found = inspect_checkpoint(path, "tags", int(entries.fids[at])).fid
    assert found is not None
    assert (found.found, found.sightings, found.seen_s) == ("candidate", entries.counts[at], entries.seen_s[at])
    assert 0 < entries.counts[at] < 16
    absent = inspect_checkpoint(path, "tags", 12_345).fid
    assert absent is not None
    assert (absent.found, absent.sightings, absent.seen_s, absent.slices) == ("absent", None, None, ())


def test_a_table_without_an_entry_has_no_newest_sighting(tmp_path: Path) -> None:
    found = inspect_checkpoint(save_table(tmp_path, EmbeddingTable(4, Sgd())), "item")
    assert (found.now_s, found.tables[0].stats.rows, found.tables[0].id_map_load) == (None, 0, 0)
    assert found.histograms is not None
    assert (found.histograms.sightings, found.histograms.ages_s) == ((), ())


def test_of_several_the_newest_intact_is_taken_and_the_refused_are_told(
    trainer: Trainer, make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    good = save(tmp_path, trainer)
    trainer.step(make_examples(9))
    bad = save(tmp_path, trainer)
    assert inspect_checkpoint(tmp_path).path == bad
    victim = bad / "tables" / "tags.table"
    victim.write_bytes(victim.read_bytes()[:-1])
    found = inspect_checkpoint(tmp_path, "tags")
    assert (found.path, len(found.refused)) == (good, 1)
    assert str(victim) in found.refused[0]
    with pytest.raises(CheckpointError, match=r"tags\.table: torn or damaged"):
        inspect_checkpoint(bad)
    (good / "dense.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"tags\.table: torn or damaged"):
        inspect_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ('"offsets"', '"offsats"', "KeyError: 'offsets'"),
        ('"job"', '"jib"', "unexpected keyword argument"),
        ('"files": {', '"failes": {', "must have version, meta, model and files"),
        ('"version"', '"vorsion"', "must have version, meta, model and files"),
        ("{", "(", "Expecting value"),
    ],
)
def test_a_damaged_manifest_is_refused(trainer: Trainer, tmp_path: Path, old: str, new: str, rule: str) -> None:
    path = save(tmp_path, trainer)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=r"manifest\.json: ") as refused:
        inspect_checkpoint(path)
    assert rule in str(refused.value)


def test_what_is_not_there_or_is_no_snapshot_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", trainer)
    with pytest.raises(CheckpointError, match=r"no: does not exist"):
        inspect_checkpoint(tmp_path / "no")
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        inspect_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="must have a table of feature 'age', got tags, user_id"):
        inspect_checkpoint(path, "age")
    with pytest.raises(CheckpointError, match="must have a table of feature 'age', got tags"):
        inspect_checkpoint(path / "tables" / "tags.table", "age", 1)
    with pytest.raises(CheckpointError, match=r"manifest\.json: is not a table snapshot"):
        inspect_checkpoint(path / "manifest.json")
    with pytest.raises(ValueError, match="fid 1 must come with a feature"):
        inspect_checkpoint(path, fid=1)


def test_settings_are_refused_where_there_is_no_header_to_read(tmp_path: Path) -> None:
    path = save_table(tmp_path, EmbeddingTable(4, Sgd()))
    whole = path.read_bytes()
    for content, rule in (
        (b"", "the header cannot be read"),
        (b"x" * 40, "is not a table snapshot"),
        (whole[:90], "the header cannot be read"),
        (whole[:40] + b"\x09" + whole[41:], "version must be 2, got 9"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rule) as refused:
            read_settings(path)
        assert str(refused.value).startswith(str(path))
    with pytest.raises(CheckpointError, match=r"no\.table: the header cannot be read: .*No such file"):
        read_settings(tmp_path / "no.table")


def document_of(found: Inspection) -> dict[str, object]:
    document: dict[str, object] = json.loads(json.dumps(found.document(), allow_nan=False))
    return document


def test_the_document_is_json_with_times_as_numbers_and_dates(trainer: Trainer, tmp_path: Path) -> None:
    path = save(tmp_path, trainer)
    document = document_of(inspect_checkpoint(path, "tags"))
    assert document["path"] == str(path)
    assert document["checkpoint"] == {
        **asdict(meta_of(trainer)),
        "quality": [],
        "offsets": [{"partition": 0, "offset": 5, "row": 3}, {"partition": 1, "offset": 9, "row": 0}],
        "watermark": "2023-11-14T22:15:20.015000+00:00",
        "saved": "2027-01-15T08:00:00.123000+00:00",
    }
    (table,) = document["tables"]  # type: ignore[misc]
    assert (table["name"], table["rows"]) == ("tags", len(trainer.bags.tables["tags"]))
    assert (table["settings"]["dim"], table["settings"]["slices"][0]["optimizer"], table["settings"]["budget"]) == (8, "adam", None)
    assert set(document["histograms"]) == {"sightings", "ages_s"}  # type: ignore[call-overload]
    assert "fid" not in document


def test_a_number_that_json_does_not_have_is_null(tmp_path: Path) -> None:
    table = EmbeddingTable(4, Sgd(lr=1.0))
    table.find_or_insert([7], NOW_S)
    found = inspect_checkpoint(save_table(tmp_path, table), fid=7)
    assert found.fid is not None
    broken = replace(found.fid.slices[0], weights=[math.inf, math.nan, 0.0, 1.0])  # no table writes such a row
    found = replace(found, fid=replace(found.fid, slices=(broken,)))
    assert document_of(found)["fid"]["slices"][0]["weights"][:2] == [None, None]  # type: ignore[index]
    assert document_of(found)["fid"]["seen"] == "2023-11-14T22:13:20+00:00"  # type: ignore[index]


def test_an_increment_alone_is_refused(tmp_path: Path) -> None:
    table = EmbeddingTable(4, Sgd())
    for name, increment in (("base", False), ("more", True)):
        table.find_or_insert([1, 2], NOW_S)
        saving = table.start_saving(tmp_path / f"{name}.table", increment=increment)
        saving.finish()
        saving.commit(track=True)
    assert inspect_checkpoint(tmp_path / "base.table").tables[0].stats.rows == 2
    with pytest.raises(CheckpointError, match=r"more\.table: continues snapshot"):
        inspect_checkpoint(tmp_path / "more.table")

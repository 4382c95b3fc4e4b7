"""The command line: a failure is one line with its reason and exit status 1; topics are created; answers are printed.

Longer than 300 lines: every command has its cases.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.config import load_job
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Impression
from monolith_py.errors import TopicMissing
from monolith_py.io import open_log
from monolith_py.io.codec import encode_impression
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_py.process import OPENMP_SPINS

TOML = """
name = "shop"
[log]
url = "sqlite:///{folder}/log"
partitions = 2
topic_prefix = "shop."
[kv]
url = "sqlite:///{folder}/kv.db"
[[features]]
name = "user_id"
source = "user_id"
[[tasks]]
name = "click"
action = "click"
[trainer]
checkpoint_dir = "{folder}/checkpoints"
"""
# Each command with what it needs beside --config.
COMMANDS = {
    "check-config": [],
    "topics": [],
    "archive": ["unused"],
    "load": [],
    "join": ["--stop-at-end"],
    "train": ["--stop-at-end"],
    "serve": [],
    "replay": ["--start", "0", "--end", "1"],
    "backtest": ["--start", "0", "--output", "unused"],
    "dead-letters": [],
    "rank": ["--user", "1", "--candidates", "1"],
}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, kafka = logging.getLogger(), logging.getLogger("kafka")
    handlers, levels = list(root.handlers), (root.level, kafka.level)
    root.handlers = []  # the set-up of a command closes those that it finds
    yield
    root.handlers = handlers
    root.setLevel(levels[0])
    kafka.setLevel(levels[1])


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a job's TOML file, with `old` replaced by `new`."""

    def write(old: str = "", new: str = "") -> Path:
        path = tmp_path / "job.toml"
        path.write_text(TOML.format(folder=tmp_path).replace(old, new) if old else TOML.format(folder=tmp_path))
        return path

    return write


def monolith(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_fails(result: Result, line: str) -> None:
    """The command failed as it should: status 1, one line, nothing of Python's."""
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.stdout == ""
    assert result.stderr == line + "\n"


def assert_usage(result: Result, *words: str) -> None:
    """The command was not understood: status 2 and what is wrong."""
    text = "".join(result.stderr.replace("│", " ").split())  # lines break anywhere in a long path
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert all("".join(word.split()) in text for word in words), result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_setting_that_breaks_a_rule_ends_any_command_with_one_line(write_job: Callable[..., Path], command: str) -> None:
    path = write_job("partitions = 2", "partitions = 0")
    rule = "log.partitions must be >= 1, got 0"
    assert_fails(monolith(command, "--config", path, *COMMANDS[command]), f"ConfigError: {path}: {rule}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_not_there_is_a_wrong_use(tmp_path: Path, command: str) -> None:
    assert_usage(monolith(command, "--config", tmp_path / "no.toml", *COMMANDS[command]), "--config", "no.toml", "does not exist")


def test_the_trainer_s_process_says_how_long_openmp_waits_before_torch_reads_it() -> None:
    script = """
import importlib.abc, os, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            os._exit(0)
sys.meta_path.insert(0, Finder())
from monolith_py.cli import app
app(["train", "--config", sys.argv[1]])
"""
    for given, expected in ((None, OPENMP_SPINS), ("7", "7")):
        env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | ({"GOMP_SPINCOUNT": given} if given else {})
        command = [sys.executable, "-u", "-c", script, __file__]
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == expected


def test_check_config_prints_all_settings_with_their_defaults(write_job: Callable[..., Path]) -> None:
    path = write_job()
    result = monolith("check-config", "--config", path)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(load_job(path).model_dump_json())
    assert json.loads(result.stdout)["joiner"]["window_s"] == 600.0


def test_topics_are_made_once_with_the_job_s_prefix_and_partitions(write_job: Callable[..., Path], tmp_path: Path) -> None:
    path = write_job()
    with closing(open_log(f"sqlite:///{tmp_path}/log")) as log:
        with pytest.raises(TopicMissing):
            log.num_partitions("shop.impressions")
        for _ in range(2):
            result = monolith("topics", "--config", path)
            assert result.exit_code == 0
        names = (
            "impressions",
            "actions",
            "examples",
            "updates",
            "dead_letters",
            "dense_requests",
            "verdicts",
            "shadow_scores",
            "forget_requests",
        )
        printed = dict(line.split() for line in result.output.splitlines())
        assert printed == {f"shop.{name}": "2" if name in names[:3] else "1" for name in names}
        assert [log.num_partitions(f"shop.{name}") for name in names] == [2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_topics_that_have_another_number_of_partitions_are_told(write_job: Callable[..., Path]) -> None:
    assert monolith("topics", "--config", write_job()).exit_code == 0
    result = monolith("topics", "--config", write_job("partitions = 2", "partitions = 3"))
    assert_fails(result, "ConfigError: log.partitions must be 2, as topic 'shop.impressions' has, got 3")


@pytest.mark.parametrize(("command", "topic"), [("join", "impressions"), ("train", "updates"), ("replay", "impressions")])
def test_a_missing_topic_is_told_with_the_command_that_makes_it(write_job: Callable[..., Path], command: str, topic: str) -> None:
    result = monolith(command, "--config", write_job(), *COMMANDS[command])
    assert_fails(result, f"TopicMissing: topic 'shop.{topic}' does not exist: create it with `monolith topics`")


def test_a_joiner_whose_store_would_die_with_it_does_not_start(write_job: Callable[..., Path], tmp_path: Path) -> None:
    result = monolith("join", "--config", write_job(f"sqlite:///{tmp_path}/kv.db", "memory:"), "--stop-at-end")
    assert_fails(result, "ConfigError: kv.url must be a store that outlives the joiner, which keeps its position there, got 'memory:'")


def test_a_metrics_port_that_is_taken_is_told(write_job: Callable[..., Path]) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        result = monolith("join", "--config", write_job("[trainer]", f"[observe]\njoiner_port = {port}\n[trainer]"))
    assert_fails(result, f"ConfigError: observe.joiner_port must be free, got {port}: [Errno 98] Address already in use")


@pytest.mark.parametrize("day", [("2022-05-05", "2022-05-06T08:00:00+08:00"), ("1651708800000", "2022-05-06T00:00:00Z")])
def test_a_replay_takes_times_in_utc_unless_they_say_otherwise(write_job: Callable[..., Path], day: tuple[str, str]) -> None:
    path = write_job()
    assert monolith("topics", "--config", path).exit_code == 0
    result = monolith("replay", "--config", path, "--start", day[0], "--end", day[1])
    assert "shop.examples-replay-1651708800000-1651795200000" in result.stdout


def test_a_replay_that_finds_nothing_says_so_and_has_an_exit_status_of_its_own(write_job: Callable[..., Path]) -> None:
    """A replay of a wrong range was a success: faults.md, f14."""
    path = write_job()
    assert monolith("topics", "--config", path).exit_code == 0
    with closing(open_log(load_job(path).log.url)) as log:
        empty = FeatureColumns(1)
        scores = np.zeros((1, 0), np.float32)
        impression = Impression("r", 1651363200000, 1, np.array([2]), empty, empty, scores)
        log.append("shop.impressions", [encode_impression(impression)], time_ms=impression.time_ms)
    found = monolith("replay", "--config", path, "--start", "2022-05-01", "--end", "2022-05-02")
    assert (found.exit_code, "requests=1" in found.stdout) == (0, True), found.output
    nothing = monolith("replay", "--config", path, "--start", "2022-05-02", "--end", "2022-05-03")
    assert (nothing.exit_code, "requests=0" in nothing.stdout) == (3, True), nothing.output
    assert "has no impression in 'shop.impressions'" in nothing.stderr


def test_a_date_of_digits_is_a_date_and_seconds_are_refused(write_job: Callable[..., Path]) -> None:
    """--start 20220501 was a time in 1970, and the replay of nothing a success: faults.md, f14."""
    path = write_job()
    result = monolith("replay", "--config", path, "--start", "20220502", "--end", "20220501")
    assert_fails(result, "ConfigError: replay end must be after its start 1651449600000, got 1651363200000")
    for text in ("1651363200", "165136320012"[:11]):
        assert_usage(monolith("replay", "--config", path, "--start", text, "--end", "5"), "start must be ISO 8601 or milliseconds", text)


def test_a_replay_of_nothing_or_of_no_time_is_refused(write_job: Callable[..., Path]) -> None:
    path = write_job()
    assert_fails(monolith("replay", "--config", path, "--start", 5, "--end", 5), "ConfigError: replay end must be after its start 5, got 5")
    for text in ("yesterday", "-5", "\u00b2"):
        assert_usage(monolith("replay", "--config", path, "--start", text, "--end", "5"), "start must be ISO 8601 or milliseconds", text)


def test_rank_needs_an_address_and_whole_numbers(write_job: Callable[..., Path]) -> None:
    assert_usage(monolith("rank", "--user", 1, "--candidates", "1"), "give --address or --config")
    path = write_job()
    assert_usage(monolith("rank", "--user", 1, "--candidates", "1,x", "--config", path), "candidates must be integers", "'1,x'")
    wrong = monolith("rank", "--user", 1, "--candidates", "1", "--config", path, "--context", "tab=a")
    assert_usage(wrong, "tab must be integers", "'a'")
    wrong = monolith("rank", "--user", 1, "--candidates", "1", "--config", path, "--dense", "hour=1,a")
    assert_usage(wrong, "hour must be numbers", "'1,a'")


def test_a_replica_that_does_not_answer_is_told_in_one_line() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        result = monolith("rank", "--user", 1, "--candidates", "1", "--address", f"127.0.0.1:{probe.getsockname()[1]}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("RankFailed: UNAVAILABLE: ")
    assert result.stderr.count("\n") == 1


class FixedRanking(pb_grpc.RankingServicer):
    """Scores item n with n / 10 and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def Rank(self, request: Any, context: Any) -> pb.RankResponse:  # noqa: N802
        self.asked.append(request)
        order = sorted(range(len(request.item_ids)), key=lambda place: -request.item_ids[place])
        scores = [request.item_ids[place] / 10 for place in order]
        return pb.RankResponse(
            request_id="r", scores=scores, candidates=order, task_names=["click"], model_version="2.17", staleness_ms=340
        )


def ranked(replica: FixedRanking, *options: str) -> Any:
    """Return the result of `monolith rank` against a server with this service."""
    server = grpc.server(ThreadPoolExecutor(1))
    pb_grpc.add_RankingServicer_to_server(replica, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        return monolith("rank", "--user", 26469, "--candidates", "3, 9,1,7", "--address", f"127.0.0.1:{port}", *options)
    finally:
        server.stop(None)


@pytest.mark.parametrize(("options", "is_logged"), [((), False), (("--log",), True)])
def test_a_ranking_by_hand_is_training_data_only_with_a_flag(options: tuple[str, ...], is_logged: bool) -> None:
    """One `monolith rank` was two negatives for the trainer."""
    replica = FixedRanking()
    assert ranked(replica, *options).exit_code == 0
    (asked,) = replica.asked
    assert asked.HasField("log_impression") and asked.log_impression is is_logged


class FeatureRanking(FixedRanking):
    """Returns a tag of the user, and a price for each candidate."""

    def Rank(self, request: Any, context: Any) -> pb.RankResponse:  # noqa: N802
        response = super().Rank(request, context)
        response.shared_features.sparse.add(name="tab", fids=[5, 6], lengths=[2])
        response.candidate_features.dense.add(name="price", values=[0.5, 1.5, 2.5, 3.5])
        return response


def test_features_that_are_asked_for_are_printed_as_they_were_read() -> None:
    replica = FeatureRanking()
    result = ranked(replica, "--feature", "tab", "--feature", "price")
    assert list(replica.asked[0].return_features) == ["tab", "price"]
    cells = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in result.stdout.splitlines()]
    features = [["all", "tab", "5, 6"], *(["9", "price", "0.5"], ["7", "price", "1.5"], ["3", "price", "2.5"], ["1", "price", "3.5"])]
    assert [row for row in cells if row in features] == features


class StartingRanking(FixedRanking):
    """Has no model for the first twenty requests."""

    def Rank(self, request: Any, context: Any) -> pb.RankResponse:  # noqa: N802
        response = super().Rank(request, context)
        if len(self.asked) <= 20:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the replica has loaded no checkpoint yet")
        return response


def test_a_replica_that_is_still_starting_is_waited_for_if_wanted() -> None:
    """`monolith serve &` and then `monolith rank`, as the README has them, ended with UNAVAILABLE."""
    replica = StartingRanking()
    assert ranked(replica, "--wait", "60").exit_code == 0
    assert len(replica.asked) == 21
    replica = StartingRanking()
    failed = ranked(replica)
    assert failed.exit_code == 1 and failed.stderr.startswith("RankFailed: UNAVAILABLE: the replica has loaded no checkpoint yet")
    assert len(replica.asked) == 5  # the client's own tries, within a second


def test_ids_beyond_64_bits_are_usage_errors() -> None:
    address = ("--address", "127.0.0.1:1")
    assert_usage(monolith("rank", "--user", 1 << 63, "--candidates", "1", *address), "--user", "9223372036854775807")
    assert_usage(
        monolith("rank", "--user", 1, "--candidates", str(1 << 63), *address), "candidates must be integers of 64 bits", str(1 << 63)
    )


def test_candidates_are_printed_best_first_with_the_model_that_scored() -> None:
    replica = FixedRanking()
    result = ranked(replica, "--context", "tab=1,2", "--context", "hour=23", "--dense", "price=0.5,-2", "--dense", "age=1e-3")
    assert result.exit_code == 0, result.output
    rows = [line.replace("│", " ").split() for line in result.stdout.splitlines()]
    assert [row[1:] for row in rows if row and row[0] in {"1", "2", "3", "4"}] == [
        ["9", "0.9000"],
        ["7", "0.7000"],
        ["3", "0.3000"],
        ["1", "0.1000"],
    ]
    assert "model 2.17, 340 ms stale" in result.stdout
    assert result.stdout.endswith("request id: r\n")
    (asked,) = replica.asked
    assert (asked.user_id, list(asked.item_ids)) == (26469, [3, 9, 1, 7])
    assert {column.name: list(column.fids) for column in asked.context.sparse} == {"tab": [1, 2], "hour": [23]}
    dense = {column.name: list(column.values) for column in asked.context.dense}
    assert dense == {"price": [0.5, -2.0], "age": [pytest.approx(1e-3)]}


def test_settings_prints_the_reference_and_version_the_version() -> None:
    assert tomllib.loads(monolith("settings").stdout)["joiner"]["window_s"] == 600.0
    assert monolith("--version").stdout == f"monolith {version('monolith-py')}\n"


def test_load_prints_its_counts_and_names_a_bad_row(write_job: Callable[..., Path], tmp_path: Path) -> None:
    path, table = write_job(), tmp_path / "impressions.parquet"
    monolith("topics", "--config", path)
    pq.write_table(pa.table({"request_id": ["r", ""], "time_ms": [1_700_000_000_000] * 2, "user_id": [1, 2], "item_id": [3, 4]}), table)
    rule = "column 'request_id' must have 1 to 512 characters, got '' at row 1"
    assert_fails(monolith("load", "--config", path, "--impressions", table), f"WireError: {table}: {rule}")
    done = monolith("load", "--config", path, "--impressions", table, "--skip-bad-rows")
    assert done.exit_code == 0 and "impressions=1" in done.stdout
    archive = tmp_path / "archive"
    assert monolith("archive", "--config", path, archive).exit_code == 0
    (file,) = archive.glob("topic=impressions/date=2023-11-14/hour=22/*.parquet")
    assert pq.ParquetFile(file).read()["request_id"].to_pylist() == ["r"]


def test_a_source_or_range_in_a_wrong_form_is_a_wrong_use(write_job: Callable[..., Path]) -> None:
    path = write_job()
    assert_usage(monolith("replay", "--config", path, "--start", "5"), "give --start and --end, or --offsets")
    assert_usage(
        monolith("replay", "--config", path, "--start", "5", "--end", "6", "--offsets", "0:1-2"), "give --start and --end, or --offsets"
    )
    assert_usage(monolith("replay", "--config", path, "--offsets", "0:1"), "offsets must be PARTITION:START-STOP", "0:1")
    assert_usage(monolith("train", "--config", path, "--from", "0:1,1"), "from must be ISO 8601 or milliseconds", "0:1,1")
    assert_usage(monolith("train", "--config", path, "--live-from", "soon"), "live-from must be ISO 8601 or milliseconds", "soon")


def test_the_source_of_a_model_stays_that_of_its_checkpoint(write_job: Callable[..., Path], tmp_path: Path) -> None:
    path = write_job()
    monolith("topics", "--config", path)
    with closing(open_log(f"sqlite:///{tmp_path}/log")) as log:
        log.create_topic("old", 2)
    train = ["train", "--config", path, "--stop-at-end", "--source", "old"]
    assert_fails(
        monolith(*train), "ConfigError: --live-from must be given with --source old, whose records name no replay of a time range, got none"
    )
    assert monolith(*train, "--from", "0:0,1:0", "--live-from", "2022-05-01").exit_code == 0
    assert monolith("train", "--config", path, "--stop-at-end").exit_code == 0
    known = "topic 'old' from {0: 0, 1: 0}, live from 1651363200000"
    rule = f"--source, --from and --live-from must be those of the checkpoint, {known}, got topic 'old' from None, live from None"
    refused = monolith(*train)
    assert refused.exit_code == 1 and refused.stderr.splitlines()[-1] == f"ConfigError: {rule}"

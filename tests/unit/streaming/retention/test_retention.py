"""Retention deletes what no process needs any more, and nothing that one does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.clock import ManualClock, SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.io import Kv, Log, open_kv
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.sync.verdicts import Verdict, encode_verdict
from monolith_py.training import Checkpoint, CheckpointStore
from monolith_streaming.retention import Bound, RetentionRounds, measure, safe_bounds, trim
from monolith_streaming.trainer.loop import OnlineTraining

World = Any
NUM = 40
# Requests of 1,000 s apart; window, lateness and order of the world's job are 1,110 s together.
EVERY_S = 1_000
# Two requests are open, and four were when the last step was written, which a joiner without a store goes by.
OPEN = 4


class Stream:
    """A job whose joiner and trainer have run over 40 requests, on SQLite."""

    def __init__(self, world: World, folder: Path, log: Log, kv: Kv) -> None:
        self.world, self.log, self.kv = world, log, kv
        document = world.job(f"sqlite:///{folder}/log", f"sqlite:///{folder}/kv.db").model_dump()
        document["trainer"] |= {"checkpoint_dir": f"{folder}/checkpoints", "num_threads": 1, "checkpoints_kept": 2}
        document["retention"] |= {"keep_s": 0.0, "trim": True}
        self.job: JobConfig = parse_job(document)
        self.clock = ManualClock(world.now_ms + 10 * 86_400_000)
        world.create_topics(log, self.job)

    def join(self, first: int, last: int) -> None:
        loop = self.world.joiner(self.job, self.log, self.kv, self.clock)
        for number in range(first, last):
            at_s = number * EVERY_S
            impression = self.world.impression(f"r{number}", at_s)
            self.world.append(self.job, self.log, impression, self.world.action(f"r{number}", "click", at_s + 1))
            ends = loop.ends()
            while not loop.has_reached(ends):
                loop.step()
            loop.commit()

    def train(self) -> None:
        OnlineTraining(self.job, self.log, SystemClock(), lambda: False).run(stop_at_end=True)

    def bounds(self, keep_s: float | None = None) -> dict[str, Bound]:
        return {bound.topic: bound for bound in safe_bounds(self.job, self.log, self.kv, self.clock.now_ms(), keep_s)}


@pytest.fixture
def stream(world: World, tmp_path: Path, make_log: Callable[..., Log], make_kv: Callable[..., Kv]) -> Stream:
    return Stream(world, tmp_path, make_log(), make_kv(f"sqlite:///{tmp_path}/kv.db"))


def test_before_a_joiner_and_a_checkpoint_nothing_may_go(stream: Stream) -> None:
    stream.world.append(stream.job, stream.log, stream.world.impression("r"))
    bounds = stream.bounds()
    names = {"impressions", "actions", "examples", "updates", "dead_letters", "dense_requests", "verdicts", "shadow_scores"}
    assert set(bounds) == names
    assert {bound.num_deletable for bound in bounds.values()} == {0}


def test_impressions_and_actions_stay_from_the_oldest_request_that_may_be_open(stream: Stream) -> None:
    stream.join(0, NUM)
    bounds = stream.bounds()
    assert (bounds["impressions"].before, bounds["actions"].before) == (NUM - OPEN, NUM - OPEN)
    assert bounds["impressions"].reason == "open requests of the joiner's last step"
    assert bounds["examples"].num_deletable == 0, "no checkpoint"


def test_a_joiner_behind_keeps_what_it_has_not_read(stream: Stream) -> None:
    stream.join(0, 10)
    for number in range(10, NUM):
        stream.world.append(stream.job, stream.log, stream.world.impression(f"r{number}", number * EVERY_S))
    assert stream.bounds()["impressions"].before == 10 - OPEN


def test_late_actions_after_a_trim_still_find_their_request(stream: Stream) -> None:
    """Deleting all that may go changes no example, also across a restart of the joiner."""
    stream.join(0, NUM)
    assert trim(stream.log, list(stream.bounds().values())) == 2 * (NUM - OPEN)
    stream.world.append(stream.job, stream.log, stream.world.action(f"r{NUM - 1}", "like", (NUM - 1) * EVERY_S + 500))
    stream.join(NUM, NUM + 2)
    labels = [labels for request_id, _, _, labels in stream.world.labels(stream.job, stream.log) if request_id == f"r{NUM - 1}"]
    assert labels[-1][1] == 1, "the late like"
    requests = {row[0] for row in stream.world.labels(stream.job, stream.log)}
    assert {f"r{number}" for number in range(NUM)} <= requests


def test_examples_and_updates_stay_from_the_checkpoints_on(stream: Stream) -> None:
    """The newest 1,000 records stay as well, so the topics are filled up behind the checkpoints."""
    stream.join(0, NUM)
    stream.train()
    stream.join(NUM, 2 * NUM)
    stream.train()
    old, new = sorted((one.meta for one in Checkpoint.all_in(Path(stream.job.trainer.checkpoint_dir))), key=lambda meta: meta.step)[-2:]
    assert 0 < old.offsets[0][0] < new.offsets[0][0]
    assert 0 < old.updates_offset < new.updates_offset
    bounds = stream.bounds()
    assert (bounds["examples"].num_deletable, bounds["updates"].num_deletable) == (0, 0), "the newest 1,000 records"
    stream.clock = ManualClock(SystemClock().now_ms() + 60_000)  # updates have the time of their publication
    for topic in ("examples", "updates"):
        stream.log.append(topic, [b"x"] * 1_000, time_ms=stream.world.now_ms)
    bounds = stream.bounds()
    assert (bounds["examples"].before, bounds["updates"].before) == (old.offsets[0][0], old.updates_offset)
    assert bounds["examples"].reason == f"checkpoint of step {old.step}"


def test_updates_stay_that_replicas_need_at_the_end_of_a_hold(stream: Stream) -> None:
    stream.join(0, NUM // 2)
    stream.train()
    good, end = Checkpoint.all_in(Path(stream.job.trainer.checkpoint_dir))[0].meta, stream.log.end_offset("updates")
    stream.log.append("verdicts", [encode_verdict(Verdict(end, held=True))], time_ms=stream.world.now_ms)
    for last in (NUM // 2 + 10, NUM):
        stream.join(last - 10, last)
        stream.train()
    stream.clock = ManualClock(SystemClock().now_ms() + 60_000)
    stream.log.append("updates", [b"x"] * 1_000, time_ms=stream.world.now_ms)
    bound = stream.bounds()["updates"]
    assert (bound.before, bound.reason) == (good.updates_offset, f"checkpoint of step {good.step}, before a hold of the guard")


def test_updates_stay_from_a_checkpoint_on_that_is_read(stream: Stream) -> None:
    stream.join(0, NUM)
    stream.train()
    store = CheckpointStore(Path(stream.job.trainer.checkpoint_dir))
    (read, *_) = store.all()
    with store.reading(read):
        for number in (1, 2):  # two newer ones, and the job keeps two
            stream.join(number * NUM, (number + 1) * NUM)
            stream.train()
        stream.clock = ManualClock(SystemClock().now_ms() + 60_000)
        stream.log.append("updates", [b"x"] * 1_000, time_ms=stream.world.now_ms)
        assert stream.bounds()["updates"].before == read.meta.updates_offset
    assert stream.bounds()["updates"].before > read.meta.updates_offset


def test_records_younger_than_keep_s_stay(stream: Stream) -> None:
    stream.join(0, NUM)
    age_s = (stream.clock.now_ms() - stream.world.now_ms) / 1000
    bound = stream.bounds(keep_s=age_s - 5.5 * EVERY_S)["impressions"]
    assert (bound.before, bound.reason) == (6, "younger than keep_s")
    assert stream.bounds(keep_s=2 * age_s)["impressions"].num_deletable == 0


def test_dead_letters_and_requests_of_replicas_go_by_their_age_alone(stream: Stream) -> None:
    """`keep_s` is that of the history: --keep-s 0 must not take letters that nobody has looked at."""
    now_ms = stream.clock.now_ms()
    for age_s in (40 * 86_400, 31 * 86_400, 29 * 86_400, 7_200, 60):
        for topic in ("dead_letters", "dense_requests"):
            stream.log.append(topic, [b"x"], time_ms=now_ms - age_s * 1000)
    bounds = stream.bounds(keep_s=0.0)
    assert (bounds["dead_letters"].before, bounds["dead_letters"].reason) == (2, "younger than dead_letters_keep_s")
    assert (bounds["dense_requests"].before, bounds["dense_requests"].reason) == (4, "younger than 3600 s")
    assert trim(stream.log, list(bounds.values())) == 6
    assert [bound.num_deletable for bound in stream.bounds().values()] == [0] * 8


def test_the_newest_verdict_stays_and_others_go_after_an_hour(stream: Stream) -> None:
    now_ms = stream.clock.now_ms()
    for age_s in (9_000, 8_000, 7_200):
        stream.log.append("verdicts", [b"x"], time_ms=now_ms - age_s * 1000)
    assert stream.bounds(keep_s=0.0)["verdicts"].num_deletable == 2
    stream.log.append("verdicts", [b"x"], time_ms=now_ms)
    assert stream.bounds(keep_s=0.0)["verdicts"].num_deletable == 3


def test_the_job_of_a_second_model_decides_nothing_about_events_and_examples(stream: Stream) -> None:
    log_config = stream.job.log.model_copy(update={"model_prefix": "wide."})
    stream.job = stream.job.model_copy(update={"log": log_config})
    create_topics(stream.log, log_config)
    assert set(stream.bounds()) == {f"wide.{name}" for name in ("updates", "dead_letters", "dense_requests", "verdicts", "shadow_scores")}


def test_a_record_of_the_future_in_the_past_keeps_too_much_and_not_too_little(stream: Stream) -> None:
    stream.world.append(stream.job, stream.log, stream.world.impression("ahead", 9 * 86_400))
    stream.join(0, NUM)
    assert stream.bounds()["impressions"].before <= NUM - 2


def test_a_round_measures_the_topics_and_deletes_if_the_job_says_so(stream: Stream, tmp_path: Path) -> None:
    stream.join(0, NUM)
    quiet = stream.job.model_copy(update={"retention": stream.job.retention.model_copy(update={"trim": False})})
    store = lambda: open_kv(stream.job.kv)  # noqa: E731
    assert RetentionRounds(quiet, stream.log, store, stream.clock).round() == 0
    assert REGISTRY.get_sample_value("monolith_topic_records", {"topic": "impressions"}) == NUM
    assert (REGISTRY.get_sample_value("monolith_topic_bytes", {"topic": "impressions"}) or 0) > 1_000
    assert RetentionRounds(stream.job, stream.log, store, stream.clock).round() == 2 * (NUM - OPEN)
    assert measure(stream.log, Topics.of(stream.job.log))["impressions"][0] == OPEN


def test_a_round_that_fails_is_counted_and_ends_nothing(stream: Stream) -> None:
    before = REGISTRY.get_sample_value("monolith_trim_failures_total") or 0.0
    stream.log.close()
    assert RetentionRounds(stream.job, stream.log, lambda: open_kv("memory:"), stream.clock).round() == 0
    assert REGISTRY.get_sample_value("monolith_trim_failures_total") == before + 1


def test_the_command_lists_and_deletes_only_with_yes(stream: Stream, tmp_path: Path) -> None:
    stream.join(0, NUM)
    toml = tmp_path / "job.toml"
    toml.write_text(
        f"""
        name = "test"
        log = {{ url = "sqlite:///{tmp_path}/log" }}
        kv = {{ url = "sqlite:///{tmp_path}/kv.db" }}
        features = [{{ name = "user", source = "user_id" }}]
        tasks = [{{ name = "is_click", action = "click" }}, {{ name = "is_like", action = "like" }}]
        joiner = {{ window_s = 100.0, allowed_lateness_s = 1000.0, max_out_of_orderness_s = 10.0 }}
        trainer = {{ checkpoint_dir = "{tmp_path}/checkpoints" }}
        """
    )
    run = lambda *arguments: CliRunner(env={"COLUMNS": "200"}).invoke(app, ["trim", "--config", str(toml), *arguments])  # noqa: E731
    assert "records are not needed; --yes deletes them" in run().output
    assert stream.log.start_offset("impressions") == 0
    result = run("--keep-s", "0", "--yes")
    assert result.exit_code == 0, result.output
    assert f"{2 * (NUM - OPEN)} records deleted" in result.output
    assert stream.log.start_offset("impressions") == NUM - OPEN


@pytest.mark.needs_kafka
def test_kafka_tells_the_size_of_a_topic(kafka_url: str, make_log: Callable[..., Log]) -> None:
    with closing(make_log(kafka_url)) as log:
        log.create_topic("retention.size", 2)
        for partition in range(2):
            log.append("retention.size", [bytes(50_000)], time_ms=1, partition=partition)
        assert 100_000 <= log.num_bytes("retention.size") < 200_000  # type: ignore[attr-defined]

"""The list-wise demo: all phases in order, the findings, and the notes of the report."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from monolith_demo.dataset.list_data import HISTORY_DAYS, ListData, load_list_data
from monolith_demo.dataset.listwise import DAY_MS, HOUR_MS, START_MS
from monolith_demo.dataset.stream import Dataset
from monolith_demo.driver import phases
from monolith_demo.driver.batch_refresh import copy_newest
from monolith_demo.driver.context import RunContext
from monolith_demo.driver.history import write_features
from monolith_demo.driver.job_files import CONFIGS
from monolith_demo.driver.live import Mark
from monolith_demo.driver.outcome import Demo, Outcome
from monolith_demo.driver.phases import LivePhase
from monolith_demo.report.ledger import read_freshness, read_ledger
from monolith_demo.report.list_baselines import linear_list_learner, running_item_rate
from monolith_demo.report.list_findings import DAILY, HOURLY, ITEM_RATE, LINEAR, ORACLE, ListFindings
from monolith_demo.report.list_plots import draw_list
from monolith_demo.report.list_tables import list_tables
from monolith_demo.report.measures import FloatArray
from monolith_demo.report.page import Contents
from monolith_py.config import load_job
from monolith_py.io import Kv, open_kv
from monolith_py.training import Checkpoint


def play(make_run: Callable[[Dataset], RunContext], options: argparse.Namespace) -> Outcome:
    """Run the demo with `--live-seconds`.

    Raises:
        ProcessDied: a process failed or ended early.
    """
    data = load_list_data()
    return outcome_of(run_list_demo(make_run(data), data, live_seconds=options.live_seconds))


def outcome_of(found: ListFindings) -> Outcome:
    """Return the report of a run."""
    contents = Contents(found.headline(), list_tables(found), draw_list(found))
    return Outcome(contents, _notes(found), found.broken_promises(), found.figures())


def run_list_demo(run: RunContext, data: ListData, *, live_seconds: float) -> ListFindings:
    """Run all phases and return the findings; `live_seconds` is the wall-clock time for the live day.

    Raises:
        ProcessDied: a process failed or ended early.
    """
    window_ms = round(run.job.joiner.window_s * 1000)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, run.progress:
        phases.prepare(run)
        linear = pool.submit(linear_list_learner, data.stream, window_ms)
        with run.timed("history written and joined"):
            phases.write_and_join(run)
        with run.timed("history trained"):
            examples_per_s = phases.train_history(run)
        baselines = {LINEAR: linear.result(), ITEM_RATE: running_item_rate(data.stream, window_ms)}
        with run.timed("live"), closing(open_kv(run.job.kv)) as kv:
            live = phases.replay_live(run, live_seconds, hourly_marks(run, data, kv))
        with run.timed("end"):
            phases.drain(run)
        return _findings(run, data, live, baselines, examples_per_s)


def hourly_marks(run: RunContext, data: ListData, kv: Kv) -> list[Mark]:
    """Return the work of each hour of the live phase: ages of items, checkpoints of the hourly and, at midnight, of the daily replica."""
    checkpoints = Path(run.job.trainer.checkpoint_dir)
    folders = {name: Path(load_job(path).trainer.checkpoint_dir) for name, path in run.files.batch.items()}

    def work(hour: int, midnight: bool) -> None:
        write_features(kv, {}, data.items_in_hour(hour))
        copy_newest(checkpoints, folders[HOURLY])
        if midnight:
            copy_newest(checkpoints, folders[DAILY])

    return [Mark(time_ms, partial(work, hour, time_ms % DAY_MS == 0)) for time_ms, hour in data.hours()]


def _findings(run: RunContext, data: ListData, live: LivePhase, baselines: dict[str, FloatArray], examples_per_s: float) -> ListFindings:
    stream, first = data.stream, int(data.stream.offsets[data.num_history])
    checkpoint = Checkpoint.newest(Path(run.job.trainer.checkpoint_dir))
    assert checkpoint is not None  # train_history has checked for one
    ages_s, rows = read_freshness(Path(run.job.serving.freshness_log or ""), live.began_ms)
    served = dict(zip(run.files.replicas, live.replay.served, strict=True))
    predictions = {name: of.scores[:, 0].astype(np.float64) for name, of in served.items()}
    predictions |= {name: of[first:] for name, of in (*baselines.items(), (ORACLE, stream.click_probability))}
    requests = stream.requests[first:]
    return ListFindings(
        hours=(stream.times_ms[requests] - (START_MS + HISTORY_DAYS * DAY_MS)) // HOUR_MS,
        requests=requests - data.num_history,
        labels=stream.clicks[first:],
        predictions=predictions,
        freshness_s=ages_s,
        freshness_rows=rows,
        rank_s=next(iter(served.values())).latencies_s,
        num_versions={name: len(set(of.versions)) for name, of in served.items()},
        ledger=read_ledger(run.log, run.job),
        trained=checkpoint.meta.examples_trained,
        num_requests=len(stream),
        num_candidates=len(stream.items),
        num_clicks=len(stream.clicked),
        history_examples_per_s=examples_per_s,
        live_s=live.took_s,
        took_s=run.took_s,
    )


def _notes(found: ListFindings) -> list[str]:
    num_live, speed = len(found.rank_s), 24 * 3600 / found.live_s
    return [
        f"The stream is generated (deploy/demo/dataset/listwise.py has every formula): {found.num_requests:,} requests of a news-like site "
        f"with {found.num_candidates:,} candidates in three days. Articles live for hours, topics get hot within minutes, and the true "
        "click probabilities are known.",
        f"Two days were trained as history, in one pass. Four replicas then scored the {num_live:,} requests of the last day over gRPC, "
        f"each before any model learned from it, in {found.live_s:.0f} s of wall clock. A second of wall clock is {speed:,.0f} s of event "
        "time: freshness costs the live replica that much more of event time than in service.",
        "The linear learner and the item rate are computed outside the system; they learn each label when it is known, at the click or "
        "after ten minutes. The truth is a sum of effects, the form of the linear learner; it crosses users and topics as the truth "
        "does.",
    ]


LIST = Demo(
    page="demo-list-report.html",
    template=CONFIGS / "demo-list.toml",
    batch=(HOURLY, DAILY),
    play=play,
    rank_flags="--user 1 --candidates 2640,2650,2660,2670,2680 --context hour=11",
    replay_flags="--start 2026-03-04 --end 2026-03-05",
)

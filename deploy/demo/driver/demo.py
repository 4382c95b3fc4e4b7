"""The demo on KuaiRand: all phases in order, the findings, and the notes of the report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monolith_demo.dataset import stream as streams
from monolith_demo.dataset.kuairand import HISTORY_DAYS, NUM_DAYS, Dataset, load_dataset
from monolith_demo.driver import phases
from monolith_demo.driver.arms import compare_and_roll_back
from monolith_demo.driver.context import RunContext
from monolith_demo.driver.job_files import TEMPLATE
from monolith_demo.driver.outcome import Demo, Outcome
from monolith_demo.driver.phases import LivePhase
from monolith_demo.report.arm_tables import arm_tables
from monolith_demo.report.baselines import linear_learner, running_video_rate
from monolith_demo.report.findings import FROZEN, LINEAR, LIVE, VIDEO_RATE, Findings
from monolith_demo.report.ledger import read_freshness, read_ledger
from monolith_demo.report.page import Contents
from monolith_demo.report.plots import draw
from monolith_demo.report.tables import tables
from monolith_demo.report.towers import TowerPass
from monolith_py.config import JobConfig
from monolith_py.table import EmbeddingTable, TableStats
from monolith_py.training import Checkpoint

FloatArray = npt.NDArray[np.float64]


def play(make_run: Callable[[streams.Dataset], RunContext], options: argparse.Namespace) -> Outcome:
    """Run the demo with `--days` and `--live-seconds`.

    Raises:
        ProcessDied: a process failed or ended early.
    """
    data = load_dataset(options.days)
    found = run_demo(make_run(data), data, live_seconds=options.live_seconds, live_days=options.days)
    return outcome_of(found, counters=options.counters)


def outcome_of(found: Findings, *, counters: bool) -> Outcome:
    """Return the report of a run; `counters` says whether live counters were on."""
    of_arms = arm_tables(found.arms) if found.arms is not None else []
    contents = Contents(found.headline(), [*tables(found), *of_arms], draw(found))
    return Outcome(contents, _notes(found, counters), found.broken_promises(), found.figures())


def run_demo(run: RunContext, data: Dataset, *, live_seconds: float, live_days: int) -> Findings:
    """Run all phases and return the findings; `live_seconds` is the wall-clock time for all four live days.

    Raises:
        ProcessDied: a process failed or ended early.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, run.progress:
        phases.prepare(run)
        linear = [pool.submit(linear_learner, data.stream, labels, data.users, data.items) for labels in data.labels.values()]
        with run.timed("history written and joined"):
            phases.write_and_join(run)
        with run.timed("history trained"):
            examples_per_s = phases.train_history(run)
        with run.timed("live"):
            live = phases.replay_live(run, live_seconds * live_days / (NUM_DAYS - HISTORY_DAYS))
        with run.timed("end"):
            phases.drain(run)
        with run.timed("arms compared, model rolled back"):
            arms = compare_and_roll_back(run)
        with run.timed("towers compared"):
            towers = phases.train_both_towers(run)
        return replace(_findings(run, data, live, [one.result() for one in linear], towers, examples_per_s), arms=arms)


def _findings(
    run: RunContext, data: Dataset, live: LivePhase, linear: Sequence[FloatArray], towers: dict[str, TowerPass], examples_per_s: float
) -> Findings:
    stream, first = data.stream, data.num_history
    checkpoint = Checkpoint.newest(Path(run.job.trainer.checkpoint_dir))
    assert checkpoint is not None  # train_history has checked for one
    ages_s, rows = read_freshness(Path(run.job.serving.freshness_log or ""), live.began_ms)
    served = live.replay.served[0]
    return Findings(
        days=stream.days[first:],
        labels={task: labels[first:] for task, labels in data.labels.items()},
        predictions=_predictions(data, live, linear),
        freshness_s=ages_s,
        freshness_rows=rows,
        rank_s=served.latencies_s,
        history_examples_per_s=examples_per_s,
        live_examples_per_s=(len(stream) - first) / live.took_s,
        live_s=live.took_s,
        table_stats=_table_stats(checkpoint, run.job),
        ledger=read_ledger(run.log, run.job),
        trained=checkpoint.meta.examples_trained,
        history_impressions=first,
        num_versions=len(set(served.versions)),
        towers=towers,
        took_s=run.took_s,
    )


def _predictions(data: Dataset, live: LivePhase, linear: Sequence[FloatArray]) -> dict[str, dict[str, FloatArray]]:
    """Return the predictions (n,) of the n live impressions, by task and model."""
    stream, first = data.stream, data.num_history
    of_live, of_frozen = (served.scores.astype(np.float64) for served in live.replay.served)  # (n, T)
    return {
        task: {
            LIVE: of_live[:, place],
            FROZEN: of_frozen[:, place],
            LINEAR: linear[place][first:],
            VIDEO_RATE: running_video_rate(stream.videos, labels)[first:],
        }
        for place, (task, labels) in enumerate(data.labels.items())
    }


def _table_stats(checkpoint: Checkpoint, job: JobConfig) -> dict[str, TableStats]:
    return {feature.name: EmbeddingTable.restore(*checkpoint.table_parts(feature.name)).stats() for feature in job.features}


def _notes(found: Findings, counters: bool) -> list[str]:
    state = "Live counters were on; they stand in for online training." if counters else "Live counters were off."
    return [
        f"{found.history_impressions:,} impressions of KuaiRand's first {HISTORY_DAYS} days were trained as history, in one pass. "
        f"Two replicas then scored the next {len(found.days):,} over gRPC, each before any model learned from it, in {found.live_s:.0f} s "
        f"of wall clock. The live replica follows the trainer, the frozen one stays at the end of history. {state}",
        "The video rate and the linear learner are computed outside the system and learn each label at once; the trainer gets it at the "
        "end of the play, or after ten minutes for a video that was not played.",
        "Data: KuaiRand-Pure, Gao et al., CIKM 2022, https://kuairand.com, CC BY-SA 4.0.",
    ]


# The command to try has a user with many impressions, and five videos with many.
KUAIRAND = Demo(
    page="demo-report.html",
    template=TEMPLATE,
    batch=(),
    play=play,
    rank_flags="--user 26469 --candidates 2303,3018,3159,445,4569 --context tab=1",
    replay_flags="--start 2022-05-05 --end 2022-05-06",
)

"""The demo as one function: all phases in order, and the findings."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monolith_demo.dataset.kuairand import HISTORY_DAYS, NUM_DAYS
from monolith_demo.driver import phases
from monolith_demo.driver.context import RunContext
from monolith_demo.driver.phases import LivePhase
from monolith_demo.report.baselines import linear_learner, running_video_rate
from monolith_demo.report.findings import FROZEN, LINEAR, LIVE, VIDEO_RATE, Findings
from monolith_demo.report.ledger import read_freshness, read_ledger
from monolith_demo.report.towers import TowerPass
from monolith_py.config import JobConfig
from monolith_py.table import EmbeddingTable, TableStats
from monolith_py.training import Checkpoint

FloatArray = npt.NDArray[np.float64]


def run_demo(run: RunContext, *, live_seconds: float, live_days: int) -> Findings:
    """Run all phases and return the findings; `live_seconds` is the wall-clock time for all four live days.

    Raises:
        ProcessDied: a process failed or ended early.
    """
    data = run.data
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, run.progress:
        phases.prepare(run)
        linear = [pool.submit(linear_learner, data.stream, labels, data.users, data.videos) for labels in data.labels.values()]
        with run.timed("history written and joined"):
            phases.write_and_join(run)
        with run.timed("history trained"):
            examples_per_s = phases.train_history(run)
        with run.timed("live"):
            live = phases.replay_live(run, live_seconds * live_days / (NUM_DAYS - HISTORY_DAYS))
        with run.timed("end"):
            phases.drain(run)
        with run.timed("towers compared"):
            towers = phases.train_both_towers(run)
        return _findings(run, live, [one.result() for one in linear], towers, examples_per_s)


def _findings(
    run: RunContext, live: LivePhase, linear: Sequence[FloatArray], towers: dict[str, TowerPass], examples_per_s: float
) -> Findings:
    stream, first = run.data.stream, run.data.num_history
    checkpoint = Checkpoint.newest(Path(run.job.trainer.checkpoint_dir))
    assert checkpoint is not None  # train_history has checked for one
    ages_s, rows = read_freshness(Path(run.job.serving.freshness_log or ""), live.began_ms)
    served = live.replay.served[0]
    return Findings(
        days=stream.days[first:],
        labels={task: labels[first:] for task, labels in run.data.labels.items()},
        predictions=_predictions(run, live, linear),
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


def _predictions(run: RunContext, live: LivePhase, linear: Sequence[FloatArray]) -> dict[str, dict[str, FloatArray]]:
    """Return the predictions (n,) of the n live impressions, by task and model."""
    stream, first = run.data.stream, run.data.num_history
    of_live, of_frozen = (served.scores.astype(np.float64) for served in live.replay.served)  # (n, T)
    return {
        task: {
            LIVE: of_live[:, place],
            FROZEN: of_frozen[:, place],
            LINEAR: linear[place][first:],
            VIDEO_RATE: running_video_rate(stream.videos, labels)[first:],
        }
        for place, (task, labels) in enumerate(run.data.labels.items())
    }


def _table_stats(checkpoint: Checkpoint, job: JobConfig) -> dict[str, TableStats]:
    return {feature.name: EmbeddingTable.restore(checkpoint.table(feature.name)).stats() for feature in job.features}

"""Phases of the shadow arm and of the rollback."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from monolith_demo.driver.children import ProcessDied
from monolith_demo.driver.context import RunContext
from monolith_demo.report.arms import ArmFindings, RollbackFindings
from monolith_py.config import load_job
from monolith_py.io.log.topics import create_topics
from monolith_py.training import Checkpoint
from monolith_serving.client import RankClient
from monolith_streaming.compare import compare_arms, read_comparison
from monolith_streaming.trainer.versions import roll_back

SHADOW = "shadow"
_POLL_S, _LONGEST_S = 0.2, 120.0


def start_shadow(run: RunContext) -> None:
    """Start the shadow process, whose model is that of the end of history."""
    assert run.files.shadow is not None
    create_topics(run.log, load_job(run.files.shadow).log)
    run.children.start(SHADOW, "shadow", run.files.shadow)


def compare_and_roll_back(run: RunContext) -> ArmFindings:
    """Compare live and shadow on the live requests, then roll the model back under a running replica.

    Raises:
        ProcessDied: a process failed, or the replica did not follow the rollback.
    """
    assert run.files.shadow is not None
    steps = run.progress.add_task("end: arms compared, model rolled back", total=2)
    start_ms = int(run.data.stream.times_ms[run.data.num_history])
    figures, differences = compare_arms(read_comparison(run.job, [load_job(run.files.shadow)], run.log, start_ms))
    run.progress.advance(steps)
    rollback = _roll_back(run)
    run.progress.advance(steps)
    return ArmFindings(figures, differences, rollback)


def _roll_back(run: RunContext) -> RollbackFindings:
    assert run.files.follower is not None
    children, folder = run.children, Path(run.job.trainer.checkpoint_dir)
    newest, older = Checkpoint.all_in(folder)[:2]
    num_before, num_older = newest.meta.examples_trained, older.meta.examples_trained
    serving = load_job(run.files.follower).serving
    children.start("follower", "serve", run.files.follower)
    address = f"{serving.host}:{serving.port}"
    children.wait_serving("follower", address)
    with closing(RankClient(address)) as client:
        before = _version(run, client)
        roll_back(run.job, run.log, older.path.name)
        began_s = time.monotonic()
        children.start("trainer-rolled-back", "train", run.files.live, "--stop-at-end")
        after = before
        while after.partition(".")[0] == before.partition(".")[0]:
            if time.monotonic() - began_s > _LONGEST_S:
                raise ProcessDied(
                    f"follower must serve the generation after {before} within {_LONGEST_S:.0f} s of the rollback, got {after}"
                )
            time.sleep(_POLL_S)
            after = _version(run, client)
        took_s = time.monotonic() - began_s
        children.finish("trainer-rolled-back")
    children.stop("follower")
    learnt = Checkpoint.newest(folder)
    assert learnt is not None
    return RollbackFindings(older.path.name, num_before - num_older, before, after, took_s, learnt.meta.examples_trained)


def _version(run: RunContext, client: RankClient) -> str:
    """Return the version that answers a request of the stream."""
    stream, index = run.data.stream, run.data.num_history
    user, items = int(stream.users[index]), stream.candidates(index)
    return client.rank(user, items, context=stream.context(index), timeout_s=10.0, log_impression=False).model_version

"""The command `monolith backtest`: runs a backtest over a job's log and writes its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import ConfigError
from monolith_py.io import open_log
from monolith_py.io.retrying import RetryingLog, RetryPolicy
from monolith_py.process import set_num_threads
from monolith_streaming.backtest.backtest import run_backtest
from monolith_streaming.backtest.document import base_arm, document
from monolith_streaming.backtest.figures import Gain
from monolith_streaming.backtest.options import BacktestOptions
from monolith_streaming.backtest.result import BacktestResult
from monolith_streaming.backtest.scores_file import write_scores
from monolith_streaming.backtest.timeline import Timeline
from monolith_streaming.backtest.view import print_result, showing_progress

# A plot, its figure in `Figures`, its axis.
_PLOTS = (("auc.png", "auc", "AUC"), ("calibration.png", "calibration", "mean score / mean label"))


def backtest_job(job: JobConfig, options: BacktestOptions, output: Path) -> str | None:
    """Run a backtest, print its figures and write figures.json, scores.parquet and the plots to `output`.

    Return a remark for the user, None without one.

    Raises:
        ConfigError: `output` cannot be written, or the range has nothing to score.
        LogError: a topic is missing, or the log was away for too long (io/retrying.py).
        ModelNotFinite: the model is poisoned.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output must be a folder that can be written, got {str(output)!r}: {error}") from None
    set_num_threads(job.trainer.num_threads)
    clock = SystemClock()
    with closing(open_log(job.log)) as log:
        timeline = Timeline(job, RetryingLog(log, RetryPolicy(clock)), options, clock)
        with showing_progress(options.end_ms or timeline.last_ms()) as note:
            result = run_backtest(job, timeline, options, note)
    base = base_arm(options)
    gains = result.gains(base) if base else {}
    print_result(result, gains, base)
    return _write(job, options, result, gains, output)


def _write(
    job: JobConfig, options: BacktestOptions, result: BacktestResult, gains: Mapping[str, Mapping[str, Gain]], output: Path
) -> str | None:
    (output / "figures.json").write_text(json.dumps(document(job, options, result, gains), indent=1, allow_nan=False) + "\n")
    write_scores(result, output / "scores.parquet")
    try:
        from monolith_streaming.backtest.plots import draw_series
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return "no plots written: they need matplotlib (pip install 'monolith-py[demo]')"
    series = result.series()
    for name, figure, label in _PLOTS:
        draw_series(series, figure, label, output / name)
    return None

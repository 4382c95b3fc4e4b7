"""Backtest: figures of a job over its log, from scores at request time, of live and of frozen models."""

from typing import TYPE_CHECKING

from monolith_py.lazy import lazy_exports
from monolith_streaming.backtest.figures import Figures, Gain
from monolith_streaming.backtest.options import DAILY, FROZEN, HOURLY, LIVE, Arm, BacktestOptions
from monolith_streaming.backtest.result import BacktestResult, Interval
from monolith_streaming.backtest.timeline import Candidates, Slice, Timeline

if TYPE_CHECKING:
    from monolith_streaming.backtest.backtest import Backtest, Progress, run_backtest
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "Backtest": "monolith_streaming.backtest.backtest",
            "Progress": "monolith_streaming.backtest.backtest",
            "run_backtest": "monolith_streaming.backtest.backtest",
        },
    )

__all__ = [
    "DAILY",
    "FROZEN",
    "HOURLY",
    "LIVE",
    "Arm",
    "Backtest",
    "BacktestOptions",
    "BacktestResult",
    "Candidates",
    "Figures",
    "Gain",
    "Interval",
    "Progress",
    "Slice",
    "Timeline",
    "run_backtest",
]

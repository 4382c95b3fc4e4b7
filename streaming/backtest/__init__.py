"""Backtest: figures of a job over its log, from scores at request time, of live and of frozen models."""

from monolith_streaming.backtest.backtest import Backtest, Progress, run_backtest
from monolith_streaming.backtest.figures import Figures, Gain
from monolith_streaming.backtest.options import DAILY, FROZEN, HOURLY, LIVE, Arm, BacktestOptions
from monolith_streaming.backtest.result import BacktestResult, Interval
from monolith_streaming.backtest.timeline import Candidates, Slice, Timeline

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

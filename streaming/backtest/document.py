"""JSON document of a backtest: figures, options, counts, versions."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from monolith_py.config import JobConfig
from monolith_streaming.backtest.figures import Figures, Gain
from monolith_streaming.backtest.options import BacktestOptions
from monolith_streaming.backtest.result import BacktestResult

_PACKAGES = ("monolith-py", "torch", "numpy")


def base_arm(options: BacktestOptions) -> str | None:
    """Return the name of the first arm that never takes over the trainer's state: the base of all gains; None without one."""
    return next((arm.name for arm in options.arms if arm.refresh_s is None), None)


def document(job: JobConfig, options: BacktestOptions, result: BacktestResult, gains: Mapping[str, Mapping[str, Gain]]) -> dict[str, Any]:
    """Return everything but the scores; a figure that is not defined is None."""
    found: dict[str, Any] = _without_nan(
        {
            "job": job.name,
            "options": asdict(options),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
            "counts": {
                "candidates": len(result.request_ids),
                "requests": int(result.request_codes.max()) + 1,
                "users": int(result.user_codes.max()) + 1,
                "examples_of_history": result.num_history,
                "examples_learnt": result.num_examples,
                "examples_put_aside": result.num_put_aside,
                "records_refused": result.num_refused,
            },
            "figures": {
                arm: {task: _entry(figures, gains.get(arm, {}).get(task)) for task, figures in of.items()}
                for arm, of in result.figures().items()
            },
            "gains_over": base_arm(options),
            "progressive_auc": result.progressive_auc(),
            "series": [{"start_ms": one.start_ms, "figures": _plain(one.figures)} for one in result.series()],
            "settings": job.model_dump(mode="json"),
        }
    )
    return found


def _entry(figures: Figures, gain: Gain | None) -> dict[str, Any]:
    return asdict(figures) | {"gain": None if gain is None else asdict(gain)}


def _plain(figures: Mapping[str, Mapping[str, Figures]]) -> dict[str, Any]:
    return {arm: {task: asdict(one) for task, one in of.items()} for arm, of in figures.items()}


def _without_nan(value: Any) -> Any:
    """Return `value` with None for every NaN or infinity, which JSON has not."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

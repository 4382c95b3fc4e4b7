"""Kinds of demo, and the outcome of a run, as the entry point sees them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monolith_demo.dataset.stream import Dataset
from monolith_demo.driver.context import RunContext
from monolith_demo.report.page import Contents


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run."""

    contents: Contents
    notes: Sequence[str]  # on how the run was done
    broken_promises: Sequence[str]
    figures: Sequence[tuple[str, float, str]]  # name, value, unit


@dataclass(frozen=True)
class Demo:
    """One kind of demo. `play` runs all phases; its first argument makes the run of a data set."""

    page: str  # file name of the latest report
    template: Path  # job file
    batch: tuple[str, ...]  # names of the replicas that are refreshed in batches
    play: Callable[[Callable[[Dataset], RunContext], argparse.Namespace], Outcome]
    rank_flags: str  # of `monolith rank`, for a user and items of the stream
    replay_flags: str  # of `monolith replay`, for a day of the stream

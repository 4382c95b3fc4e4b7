"""Passes side by side, in processes of their own, with a bar that says how far they are."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Task = TypeVar("Task", bound=tuple[Any, ...])
Outcome = TypeVar("Outcome")


def side_by_side(
    tasks: Sequence[Task], learn: Callable[..., Outcome], jobs: int, receive: Callable[..., None], given: Any
) -> Iterator[tuple[Task, Outcome]]:
    """Yield each task with what `learn(*task)` returned, as they end; each of the `jobs` workers calls `receive(given)` first.

    Evictions by a memory budget sample buckets, whose choice is a secret of the process: the workers share one, so that a run repeats.
    """
    os.environ.setdefault("MONOLITH_HASH_SEED", "0")
    columns = (TextColumn("passes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")  # a fork would take torch's threads along
    with ProcessPoolExecutor(jobs, context, receive, (given,)) as pool, Progress(*columns) as progress:
        futures = {pool.submit(learn, *task): task for task in tasks}
        for future in progress.track(as_completed(futures), total=len(futures)):
            yield futures[future], future.result()

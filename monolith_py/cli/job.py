"""The job of a command: its option, its start, its errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from monolith_py.errors import MonolithError

if TYPE_CHECKING:
    from monolith_py.config import JobConfig

ConfigOption = Annotated[Path, typer.Option("--config", help="The job's TOML file.", exists=True, dir_okay=False)]


def load_job(path: Path) -> JobConfig:
    """Return the job of a TOML file.

    Raises:
        ConfigError: the file cannot be read, or a setting breaks a rule.
    """
    from monolith_py.config import load_job as load  # takes 0.15 s, which --help need not

    return load(path)


def start_job(config: Path, role: Literal["joiner", "trainer", "archiver", "serving", "shadow", "guard"] | None = None) -> JobConfig:
    """Load the job, set up logging and, for a process with a role, its metrics; return the job."""
    from monolith_py.observe import serve_metrics, set_up_logging

    with errors_to_exit():
        job = load_job(config)
        set_up_logging(job.observe.log_level)
        if role is not None:
            serve_metrics(getattr(job.observe, f"{role}_port"), role)
    return job


@contextmanager
def errors_to_exit() -> Iterator[None]:
    """Turn a MonolithError into one line on standard error and exit status 1."""
    try:
        yield
    except MonolithError as error:
        Console(stderr=True, highlight=False).print(f"{type(error).__name__}: {error}", markup=False, soft_wrap=True)
        sys.exit(1)

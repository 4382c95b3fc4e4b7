"""The command `monolith compare`: figures of the arms of a log, printed and as one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import ConfigError
from monolith_py.io import open_log
from monolith_py.io.retrying import RetryingLog, RetryPolicy
from monolith_streaming.compare.arms import read_comparison
from monolith_streaming.compare.document import document, page
from monolith_streaming.compare.figures import compare_arms
from monolith_streaming.compare.view import print_comparison


def compare_job(job: JobConfig, shadows: Sequence[JobConfig], output: Path | None, start_ms: int = 0, end_ms: int | None = None) -> None:
    """Print the comparison and write compare.json and compare.html to the folder `output`, if there is one.

    Raises:
        ConfigError: `output` cannot be written, a shadow job has another log, or the range has nothing to compare.
        LogError: a topic is missing, or the log was away for too long (io/retrying.py).
    """
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output must be a folder that can be written, got {str(output)!r}: {error}") from None
    with closing(open_log(job.log)) as log:
        comparison = read_comparison(job, shadows, RetryingLog(log, RetryPolicy(SystemClock())), start_ms, end_ms)
    figures, differences = compare_arms(comparison)
    print_comparison(comparison, figures, differences)
    if output is not None:
        (output / "compare.json").write_text(json.dumps(document(comparison, figures, differences), indent=1, allow_nan=False) + "\n")
        (output / "compare.html").write_text(page(comparison, figures, differences))

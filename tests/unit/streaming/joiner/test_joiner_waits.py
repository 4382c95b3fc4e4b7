"""A joiner waits at its start for a store that cannot be opened, as it does while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from monolith_py.io import open_kv, open_log
from monolith_streaming.joiner.process import run_joiner

World = Any


class OnWarning(logging.Handler):
    """Calls `repair` at the first warning of a further attempt."""

    def __init__(self, repair: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self.repair: Callable[[], None] | None = repair

    def emit(self, record: logging.LogRecord) -> None:
        if self.repair is not None and "next attempt in" in record.getMessage():
            repair, self.repair = self.repair, None
            repair()


def test_a_store_that_cannot_be_opened_is_waited_for_with_a_line_of_the_log(world: World, tmp_path: Path) -> None:
    """The joiner ended with KvError at once, where a full disk while it ran was waited for."""
    job = world.job(f"sqlite:///{tmp_path / 'log'}", f"sqlite:///{tmp_path / 'kv.db'}", terminal_actions=["end"])
    with closing(open_log(job.log.url)) as log:
        world.create_topics(log, job)
        world.append(job, log, world.impression("r"), world.action("r", "end", 1))
        blocker = tmp_path / "kv.db"
        blocker.mkdir()
        handler = OnWarning(blocker.rmdir)
        logger = logging.getLogger("monolith_py.io.retrying")
        logger.addHandler(handler)
        try:
            run_joiner(job, stop_at_end=True)
        finally:
            logger.removeHandler(handler)
        assert handler.repair is None
        assert [row[0] for row in world.labels(job, log)] == ["r"]
    with closing(open_kv(job.kv.url)) as kv:
        assert any(":position" in key for key, _ in kv.scan("joiner:test:"))

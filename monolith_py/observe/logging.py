"""Logging of every process."""

from __future__ import annotations

import logging


def set_up_logging(level: str) -> None:
    """Send log lines of `level` and above to standard error. Entry points alone call this."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    # kafka-python has an INFO line for each step of each connection.
    logging.getLogger("kafka").setLevel(max(logging.getLevelNamesMapping()[level], logging.WARNING))
    # It warns of each callback that took a tenth of a second, which on a busy machine any may.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)

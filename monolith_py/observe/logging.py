"""Logging of the processes."""

from __future__ import annotations

import logging


def set_up_logging(level: str) -> None:
    """Send log lines of `level` and above to standard error; only entry points call this."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    # FBGEMM logs the features of its build by the root logger, which this project does not use.
    logging.getLogger().handlers[0].addFilter(lambda record: record.name != "root" or record.levelno >= logging.WARNING)
    # kafka-python logs an INFO line for each step of each connection, Beam one for each type hint of its own code.
    for name in ("kafka", "apache_beam"):
        logging.getLogger(name).setLevel(max(logging.getLevelNamesMapping()[level], logging.WARNING))
    # It warns of each callback longer than a tenth of a second, which is common on a busy machine.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)

"""observe.log_level: lines of that level and above reach standard error, and kafka-python and Beam stay quiet."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from monolith_py.observe import set_up_logging

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Leave the root logger as pytest set it up."""
    loggers = [logging.getLogger(name) for name in (None, "kafka", "kafka.net.selector", "apache_beam")]
    handlers, levels = loggers[0].handlers[:], [logger.level for logger in loggers]
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize("log_level", LEVELS)
def test_lines_of_the_level_and_above_are_written(log_level: str, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers[:] = []
    set_up_logging(log_level)
    for level in LEVELS:
        logging.getLogger("monolith_py.test").log(logging.getLevelNamesMapping()[level], "line of level %s", level)
        for name in ("kafka.conn", "apache_beam.typehints.native_type_compatibility", "root"):
            logging.getLogger(name).log(logging.getLevelNamesMapping()[level], "%s line of level %s", name.partition(".")[0], level)
    written = capsys.readouterr().err
    expected = LEVELS[LEVELS.index(log_level) :]
    assert [level for level in LEVELS if f"{level} monolith_py.test: line of level {level}" in written] == list(expected)
    for name in ("kafka", "apache_beam", "root"):
        assert [level for level in LEVELS if f"{name} line of level {level}" in written] == [
            level for level in expected if level in ("WARNING", "ERROR")
        ]

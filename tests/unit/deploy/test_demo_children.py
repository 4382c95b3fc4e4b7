"""Processes of the demo: a stop at any moment is a clean one."""

from __future__ import annotations

from pathlib import Path

import pytest

from monolith_demo.driver.children import Children, ProcessDied


def test_a_process_that_is_still_starting_can_be_stopped(tmp_path: Path) -> None:
    with Children(tmp_path / "logs") as children:
        children.start("joiner", "join", tmp_path / "job.toml")
        children.stop("joiner")
        assert not children.is_running("joiner")


def test_a_process_that_fails_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Children(tmp_path / "logs") as children:
        children.start("joiner", "join", tmp_path / "absent.toml")
        with pytest.raises(ProcessDied, match=r"joiner failed with status 2.*\n(.*\n)*.*does not exist"):
            children.finish("joiner")

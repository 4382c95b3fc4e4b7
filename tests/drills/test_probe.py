"""A probe of real processes: a click reaches the served score, and the part that does not come is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from surroundings import Deployment, wait_until


@pytest.mark.slow
def test_a_click_reaches_the_served_score_and_a_missing_trainer_is_named(deploy: Callable[..., Deployment]) -> None:
    drill = deploy()
    joiner, trainer, replica = (drill.start(command) for command in ("join", "train", "serve"))
    wait_until((drill.folder / "port").exists, [joiner, trainer, replica])
    drill.run("probe", "--address", drill.address, "--count", "3", "--timeout", "120")
    assert sum(drill.examples().values()) == 3
    trainer.stop()
    drill.start("probe", "--address", drill.address, "--timeout", "3").must_refuse("ProbeFailed: train")

"""Command line of the demos."""

from __future__ import annotations

import pytest

from monolith_demo.driver.run import parse_options


def test_without_options_it_is_kuairand_with_all_live_days() -> None:
    options = parse_options([])
    assert (options.list, options.kafka, options.counters, options.days, options.live_seconds) == (False, False, False, 4, 240.0)


def test_lists_run_on_kafka_too() -> None:
    options = parse_options(["--list", "--kafka"])
    assert options.list and options.kafka


@pytest.mark.parametrize("option", [["--counters"], ["--days", "2"]])
def test_options_of_kuairand_are_refused_with_lists(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(["--list", *option])
    assert ended.value.code == 2
    assert "--counters and --days must not come with --list" in capsys.readouterr().err

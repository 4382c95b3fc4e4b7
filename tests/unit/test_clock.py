"""Clocks: the manual clock of tests and the system clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monolith_py.clock import ManualClock, SystemClock


@given(st.integers(0, 2_000_000_000_000), st.lists(st.tuples(st.booleans(), st.integers(0, 100_000)), max_size=20))
def test_a_manual_clock_stands_still_but_for_what_it_is_told(start_ms: int, moves: list[tuple[bool, int]]) -> None:
    clock = ManualClock(start_ms)
    begin_s = clock.monotonic_s()
    for sleeps, eighths in moves:
        (clock.sleep if sleeps else clock.advance)(eighths / 8)  # eighths of a second are exact in binary
    passed_ms = sum(eighths for _, eighths in moves) * 125
    assert clock.now_ms() == start_ms + passed_ms
    assert abs(clock.monotonic_s() - begin_s - passed_ms / 1000) < 1e-3


def test_the_clock_of_the_machine_goes_on() -> None:
    clock = SystemClock()
    now_ms, monotonic_s = clock.now_ms(), clock.monotonic_s()
    clock.sleep(0.0)
    assert clock.now_ms() >= now_ms > 1_700_000_000_000
    assert clock.monotonic_s() >= monotonic_s

"""The stop signal, the number of threads and OpenMP's idle threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from monolith_py import _core
from monolith_py.process import OPENMP_SPINS, StopSignal, limit_openmp_spins, run_in_background, set_num_threads


@pytest.fixture
def threads_kept() -> Iterator[None]:
    of_torch, of_core = torch.get_num_threads(), _core.num_threads()
    yield
    torch.set_num_threads(of_torch)
    _core.set_num_threads(of_core)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_stop_signal_and_ends_a_wait(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignal().installed() as stop:
        assert not stop.is_set() and not stop.wait(0.0)
        os.kill(os.getpid(), number)
        assert stop.wait(30.0) and stop.is_set()
        assert stop.wait(30.0), "a second wait returns at once"
    assert signal.getsignal(number) == before


def test_handlers_are_restored_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), StopSignal().installed():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before


def test_set_wakes_every_thread_that_waits() -> None:
    stop, woken = StopSignal(), []
    threads = [threading.Thread(target=lambda: woken.append(stop.wait(60.0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    stop.set()
    stop.set()
    for thread in threads:
        thread.join(30.0)
    assert woken == [True] * 4


def test_signals_in_the_middle_of_a_wait_never_block_it() -> None:
    # A handler that sets a `threading.Event` hangs here within some hundred rounds.
    script = """
import os, signal, threading, time
from monolith_py.process import StopSignal
def bother():
    while True:
        time.sleep(0.0001)
        os.kill(os.getpid(), signal.SIGTERM)
stop = StopSignal()
with stop.installed():
    threading.Thread(target=bother, daemon=True).start()
    for _ in range(3000):
        stop = StopSignal()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        while not stop.wait(1e-6):
            pass
    os._exit(0)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 0


def test_threads_are_set_for_torch_and_core(threads_kept: None) -> None:
    set_num_threads(1)
    assert (torch.get_num_threads(), _core.num_threads()) == (1, 1)
    set_num_threads(0)
    assert (torch.get_num_threads(), _core.num_threads()) == (os.cpu_count(), os.cpu_count())


@pytest.mark.parametrize(("given", "expected"), [(None, OPENMP_SPINS), ("7", "7")])
def test_openmp_spins_are_limited_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    limit_openmp_spins()
    assert os.environ["GOMP_SPINCOUNT"] == expected


def test_a_thread_in_the_background_is_of_the_idle_class_and_others_are_not() -> None:
    classes = []

    def work() -> None:
        run_in_background()
        classes.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert classes == [os.SCHED_IDLE]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER

"""Flow (b): a replica is fresh once it has the updates of the log, and as long as it gets them; clocks may be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.sync import Delta, encode_delta

HOUR_S = 3_600.0


class SkewedClock(ManualClock):
    """The monotonic time of another clock, with a wall clock that is `skew_s` off."""

    def __init__(self, other: ManualClock, skew_s: float) -> None:
        super().__init__()
        self._other, self.skew_s = other, skew_s

    def now_ms(self) -> int:
        return self._other.now_ms() + int(1_000 * self.skew_s)

    def monotonic_s(self) -> float:
        return self._other.monotonic_s()


def publish_and_lead(trainer: Any, replica: Any) -> None:
    trainer.step()
    trainer.publish()
    trainer.lead(replica)


def test_a_replica_is_fresh_once_it_has_applied_what_the_log_held_at_its_load(make_trainer, make_replica, clock):
    trainer = make_trainer()
    trainer.checkpoint()
    for _ in range(9):
        trainer.step()
        trainer.publish()
    replica = make_replica(trainer)
    assert replica.is_ready and not replica.is_fresh
    assert replica.apply_updates(0.0) and not replica.is_fresh, "the first of several reads"
    trainer.lead(replica)
    clock.advance(1.0)
    assert replica.apply_updates(0.0) and replica.is_fresh
    assert (replica.behind_s(), replica.staleness_ms()) == (0.0, 1_000)


def test_a_replica_that_cannot_follow_is_fresh_again_with_the_next_checkpoint(make_trainer, make_replica, clock):
    trainer = make_trainer()
    trainer.checkpoint()
    replica = make_replica(trainer)
    assert replica.apply_updates(0.0) and replica.is_fresh
    generation, seq = trainer.publisher.next_delta
    trainer.log.append(trainer.topic, [encode_delta(Delta(generation, seq + 7, 0, clock.now_ms()))], time_ms=clock.now_ms())
    trainer.lead(replica)

    class Waits:
        """A stop signal after one wait of a second."""

        num = 0

        def is_set(self) -> bool:
            return self.num > 0

        def wait(self, timeout_s: float) -> None:
            self.num += 1
            clock.advance(1.0)

    for _ in range(31):
        assert replica.is_fresh
        replica.follow(Waits())
    replica.follow(Waits())
    assert not replica.is_fresh and replica.behind_s() > 30.0
    trainer.step()
    trainer.checkpoint()
    assert replica.load_newest() and replica.apply_updates(0.0)
    assert replica.is_fresh and replica.behind_s() == 0.0


@pytest.mark.parametrize("skew_s", [-HOUR_S, HOUR_S])
def test_ages_hold_whatever_the_clock_of_the_trainer_says(make_trainer, make_replica, clock, tmp_path, skew_s):
    trainer = make_trainer()
    trainer.checkpoint()
    replica = make_replica(trainer)
    assert replica.apply_updates(0.0)
    trainer.clock = SkewedClock(clock, skew_s)
    trainer.publisher._clock = trainer.clock
    for _ in range(2):
        clock.advance(0.25)
        publish_and_lead(trainer, replica)
        assert replica.staleness_ms() <= 250
        assert replica.apply_updates(0.0)
    trainer.clock.skew_s = 0.0  # a jump back, or ahead
    clock.advance(0.25)
    publish_and_lead(trainer, replica)
    clock.advance(2_000.0)
    assert 2_000_000 <= replica.staleness_ms() <= 2_000_250
    ages_s = [float(line.split()[1]) for line in (tmp_path / "freshness").read_text().splitlines()]
    assert len(ages_s) == 3 and max(ages_s) <= 0.25


def test_an_idle_trainer_keeps_the_age_of_a_model_within_its_heartbeat(make_trainer, make_replica, clock):
    trainer = make_trainer()
    trainer.checkpoint()
    replica = make_replica(trainer)
    for _ in range(400):
        clock.advance(0.25)
        trainer.publisher.maybe_publish(0)
        if trainer.publisher._append is not None:
            trainer.publisher._append.result()
        trainer.lead(replica)
        assert replica.staleness_ms() <= 5_000

"""A trainer that learns flipped labels on a genuine Kafka: the guard holds it, the last good version serves until the hold is ended."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from cuttable_proxy import ProxiedBroker
from labelled_examples import LabelledExamples
from surroundings import WAIT_S, Child, Deployment, now_ms, wait_until

from monolith_py.sync import decode_delta
from monolith_py.sync.verdicts import Verdict, decode_verdict
from monolith_py.training import Checkpoint
from monolith_serving.client import RankClient

ALERTS = Path(__file__).parents[2] / "deploy" / "alerts.yaml"
# A user that likes, and one that does not.
LIKES, DISLIKES, ITEMS = 3, 30, [1, 2, 5]
SETTINGS: dict[str, dict[str, object]] = {
    "guard": {"examples": 512, "min_positives": 20},
    "optimizer.sparse": {"kind": "sgd", "lr": 0.05},
    "optimizer.dense": {"lr": 0.01},
    # During a hold each checkpoint but the newest is one too many.
    "trainer": {"batch_size": 64, "checkpoint_interval_s": 1.0, "checkpoints_kept": 1},
    "serving": {"guarded": True},
}


class Guarded:
    """Trainer, guard and a guarded replica of one job, with a stream of examples."""

    def __init__(self, drill: Deployment) -> None:
        self.drill, self.examples = drill, LabelledExamples(drill)
        self.examples.append(40)
        drill.run("train", "--stop-at-end")
        self.trainer, self.guard, self.replica = (drill.start(command) for command in ("train", "guard", "serve"))

    @property
    def children(self) -> list[Child]:
        return [self.trainer, self.guard, self.replica]

    def feed_until(self, condition: Callable[[], object], *, flipped: bool) -> None:
        """Append a record every fifth of a second until the condition holds."""
        due_ms = 0

        def look() -> bool:
            nonlocal due_ms
            if now_ms() >= due_ms:
                self.examples.append(flipped=flipped)
                due_ms = now_ms() + 200
            return bool(condition())

        wait_until(look, self.children)

    def verdicts(self) -> list[Verdict]:
        return [decode_verdict(record.value) for record in self.drill.records(self.drill.topics.verdicts)]

    def is_held(self, role: str) -> bool:
        name = {"guard": "monolith_guard_held", "serving": "monolith_replica_updates_held"}[role]
        return self.drill.metric(name, role) > 0

    def served(self) -> tuple[float, str]:
        """Return by how much the model prefers the user that likes, and its version."""
        with RankClient(self.drill.address) as client:
            likes, dislikes = (
                client.rank_when_ready(user, ITEMS, wait_s=WAIT_S, timeout_s=WAIT_S, log_impression=False) for user in (LIKES, DISLIKES)
            )
        return float(np.mean(likes.scores) - np.mean(dislikes.scores)), likes.model_version

    def num_checkpoints(self) -> int:
        """Return how many checkpoints the trainer has written since its start."""
        return self.trainer.said().count("checkpoint /")

    def hold(self) -> Verdict:
        """Flip the labels until the replica says that updates are held; print how long it took; return the first verdict of the hold."""
        num_before = len(self.verdicts())
        self.feed_until(lambda: self.is_held("serving"), flipped=True)
        seen_ms = now_ms()
        held = next(verdict for verdict in self.verdicts()[num_before:] if verdict.held)
        (published_ms,) = [
            delta.published_ms
            for delta in (decode_delta(record.value) for record in self.drill.records(self.drill.topics.updates))
            if delta.digest is not None and f"{delta.generation}.{delta.seq + 1}" == held.version
        ]
        print(f"version {held.version}: published to judged {held.time_ms - published_ms} ms, judged to held {seen_ms - held.time_ms} ms")
        assert "NE is" in held.reason or "calibration" in held.reason
        return held


def fires(alert: str, drill: Deployment) -> bool:
    """Return whether the expression of an alert, a disjunction of `max(metric) > 0`, holds."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    (expression,) = [rule["expr"] for rule in rules if rule.get("alert") == alert]
    terms = [re.fullmatch(r"max\((\w+)\) > 0", term) for term in expression.split(" or ")]
    assert all(terms), expression
    return any(drill.metric(term[1], role) > 0 for term in terms if term for role in drill.metric_roles)


@pytest.mark.needs_kafka
@pytest.mark.long_drill
@pytest.mark.timeout(900)
def test_flipped_labels_are_held_until_a_rollback_and_until_the_operator_accepts(
    deploy: Callable[..., Deployment], broker: ProxiedBroker
) -> None:
    drill = deploy(log={"url": broker.url, "topic_prefix": "guarded."}, metrics_of="guard serving", **SETTINGS)
    job = Guarded(drill)
    job.feed_until(lambda: drill.metric("monolith_guard_verdicts_total", "guard") >= 3, flipped=False)
    assert job.served()[0] > 0.1 and not fires("MonolithUpdatesHeld", drill)

    held = job.hold()
    last_good = job.served()
    assert last_good[0] > 0.1 and last_good[1] != held.version
    assert job.is_held("guard") and fires("MonolithUpdatesHeld", drill)
    written = job.num_checkpoints()
    job.feed_until(lambda: job.num_checkpoints() >= written + 4, flipped=True)
    assert job.served() == last_good, "the last good version serves on, whatever the trainer publishes"

    job.replica.kill()  # one that starts during the hold needs a checkpoint of before
    job.replica = drill.start("serve")
    preference, version = job.served()
    assert preference > 0.1 and place_of(version) <= place_of(last_good[1])
    job.guard.kill()
    job.guard = drill.start("guard")
    job.feed_until(lambda: drill.metric("monolith_guard_verdicts_total", "guard") >= 2, flipped=True)
    assert job.is_held("guard") and job.served()[0] > 0.1

    roll_back(job)
    job.feed_until(lambda: not job.is_held("serving") and place_of(job.served()[1]) > place_of(held.version), flipped=False)
    assert job.served()[0] > 0.1 and not fires("MonolithUpdatesHeld", drill)

    job.hold()
    job.guard.stop()
    job.guard = drill.start("guard", "--accept", str(job.verdicts()[-1].good_until))
    job.feed_until(lambda: not job.is_held("serving") and job.served()[0] < 0, flipped=True)
    assert not fires("MonolithUpdatesHeld", drill)


def place_of(version: str) -> tuple[int, ...]:
    """Return a version as generation and number."""
    return tuple(map(int, version.split(".")))


def roll_back(job: Guarded) -> None:
    """Go back to the newest checkpoint of before the hold, without the examples since."""
    drill, verdict = job.drill, job.verdicts()[-1]
    job.trainer.stop()
    checkpoints = Checkpoint.all_in(Path(drill.job.trainer.checkpoint_dir))
    # On Kafka the end of a transaction takes an offset behind the last record.
    good = next(one for one in checkpoints if one.meta.updates_offset <= verdict.good_until + 1)
    ends = (f"{partition}:{drill.log.end_offset(drill.topics.examples, partition)}" for partition in range(drill.job.log.partitions))
    drill.run("rollback", "--to", good.path.name, "--skip-until", ",".join(ends))
    job.trainer = drill.start("train")

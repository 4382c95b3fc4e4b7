"""A genuine S3 server is killed in the middle of uploads: no half checkpoint is ever seen, trainer and replica go on."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cuttable_proxy import CuttableProxy
from labelled_examples import ROWS, LabelledExamples
from s3_gateway import GatewayUnavailable, S3Gateway
from surroundings import WAIT_S, Child, Deployment, wait_until

from monolith_py.training import Checkpoint
from monolith_serving.client import RankClient
from tests.s3_server import CREDENTIALS

NUM_KILLS = int(os.environ.get("MONOLITH_S3_KILLS", "6"))
# Each block of 64 KiB waits for so long: an upload then takes a few tenths of a second.
_DELAY_S = 0.01


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Gateway]:
    """Genuine S3 server with its credentials in the environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    try:
        gateway = S3Gateway(tmp_path / "s3")
    except GatewayUnavailable as error:
        pytest.skip(f"NO S3 SERVER, so this drill was not run: {error}")
    gateway.start()
    yield gateway
    gateway.kill()


class Bucket:
    """Checkpoints of a job as the server has them on its disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def whole(self) -> list[Checkpoint]:
        """Return the checkpoints with a manifest, newest first."""
        return [one for one in Checkpoint.all_in(self._folder) if one.manifest.exists()]

    def torn(self) -> str:
        """Return what is under way, "upload" or "deletion" of a checkpoint, or nothing."""
        newest = self.whole()[:1]
        for one in Checkpoint.all_in(self._folder):
            if not one.manifest.exists() and any(one.files()):
                return "upload" if not newest or one.path.name > newest[0].path.name else "deletion"
        return ""

    def check(self) -> None:
        """Check every file of each checkpoint that has a manifest. The server must be dead."""
        for one in self.whole():
            one.verify()

    @property
    def step(self) -> int:
        """Return the batches of the newest checkpoint, -1 without one."""
        with contextlib.suppress(OSError):
            return next((one.meta.step for one in self.whole()), -1)
        return -1


@pytest.mark.long_drill
@pytest.mark.timeout(1800)
def test_a_server_that_is_killed_while_checkpoints_go_up_costs_no_example(deploy: Callable[..., Deployment], gateway: S3Gateway) -> None:
    with contextlib.closing(CuttableProxy()) as proxy:
        proxy.target_port, proxy.delay_s = gateway.port, _DELAY_S
        objects = {"endpoint": f"http://127.0.0.1:{proxy.port}", "region": "us-east-1", "cache_dir": "CACHE"}
        trainer_settings = {"checkpoint_dir": "s3://bucket/shop", "checkpoint_interval_s": 0.5, "checkpoints_kept": 2}
        drill = deploy(trainer=trainer_settings, objects=objects)
        configs = [with_cache(drill, name) for name in ("first", "second")]
        examples, bucket = LabelledExamples(drill, num_items=20_000), Bucket(gateway.bucket / "shop")
        examples.append(50)
        trainer, replica = (drill.start(command, config=configs[0]) for command in ("train", "serve"))
        feed_until(examples, lambda: bucket.step > 0, [trainer, replica])  # without a first checkpoint a trainer ends
        answer(drill)
        kills: Counter[str] = Counter()
        for number in range(NUM_KILLS):
            wanted = "deletion" if number % 4 == 3 else "upload"
            feed_until(examples, lambda wanted=wanted: bucket.torn() == wanted, [trainer, replica])
            is_trainer = number % 3 == 2  # now and then it is the trainer that dies
            trainer.kill() if is_trainer else gateway.kill()
            kills[("trainer, " if is_trainer else "server, ") + (bucket.torn() or "none under way")] += 1
            bucket.check()
            if is_trainer:
                trainer = drill.start("train", config=configs[0])
            else:
                assert answer(drill), "the replica answers without the store"
                gateway.start()
            before = bucket.step
            feed_until(examples, lambda before=before: bucket.step > before, [trainer, replica])
        print(f"killed during: {dict(kills)}")
        trainer.stop()
        replica.stop()
        check_restore(drill, configs[1], examples, bucket)


def with_cache(drill: Deployment, name: str) -> Path:
    """Write the job of a machine with a folder of its own for local copies."""
    path = drill.folder / f"{name}.toml"
    path.write_text(drill.config.read_text().replace("CACHE", f"{drill.folder}/{name}"))
    return path


def feed_until(examples: LabelledExamples, condition: Callable[[], object], children: list[Child]) -> None:
    """Append a record a look until the condition holds."""

    def look() -> bool:
        examples.append()
        return bool(condition())

    wait_until(look, children)


def answer(drill: Deployment) -> list[float]:
    """Return the scores of a request."""
    with RankClient(drill.address) as client:
        result = client.rank_when_ready(3, [1, 2, 5], wait_s=WAIT_S, timeout_s=WAIT_S, log_impression=False)
    return [float(score) for score in result.scores[:, 0]]


def check_restore(drill: Deployment, config: Path, examples: LabelledExamples, bucket: Bucket) -> None:
    """Check that another machine goes on from the store, with every example learnt once, and that nothing of old checkpoints stays."""
    examples.append(5)
    drill.start("train", "--stop-at-end", config=config).must_end_well()
    newest = bucket.whole()[0]
    assert newest.meta.examples_trained == examples.num_records * ROWS
    replica = drill.start("serve", config=config)
    assert all(0 < score < 1 for score in answer(drill))
    replica.stop()
    assert len(bucket.whole()) == 2
    names = {one.path.name for one in bucket.whole()}
    left = {path.name for path in newest.path.parent.glob("step-*")} - names
    assert not left, "folders of checkpoints that are gone"

"""All processes of a job, started as a user starts them: what is clicked ranks higher a moment later, and each event counts once."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, load_job
from monolith_py.data.events import Action
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import open_log
from monolith_py.io.codec import decode_examples, encode_action
from monolith_py.io.log.topics import Topics, partition_of
from monolith_serving.client import RankClient

TOML = """
name = "loop"

[log]
url = "sqlite:///{folder}/log"
partitions = 2

[kv]
url = "sqlite:///{folder}/kv.db"

[[features]]
name = "user_id"
source = "user_id"

[[features]]
name = "video_id"
source = "item_id"

[[features]]
name = "tab"
source = "context"

[[tasks]]
name = "click"
action = "click"

[model]
tower = [16]

[optimizer.sparse]
lr = 0.1

[joiner]
window_s = 0.5
max_out_of_orderness_s = 0.2
idle_timeout_s = 1e6
linger_s = 0.02

[trainer]
batch_size = 32
linger_s = 0.02
checkpoint_dir = "{folder}/checkpoints"
checkpoint_interval_s = 2.0

[sync]
sparse_interval_s = 0.2
dense_interval_s = 0.5

[serving]
max_request_age_s = 0.0
port = 0
port_file = "{folder}/port"
"""

LIKED, IGNORED = 11, 12
CALL_TIMEOUT_S = 120.0  # against a hang alone
# Event time is the test's own: windows close by the requests that follow, however long the machine takes for them.
START_MS, MS_PER_REQUEST = 1_700_000_000_000, 100


def test_what_is_clicked_ranks_higher_a_moment_later_and_each_event_counts_once(tmp_path: Path) -> None:
    config = tmp_path / "job.toml"
    config.write_text(TOML.format(folder=tmp_path))
    job = load_job(config)
    assert run(config, "topics").wait() == 0
    with ExitStack() as stack:
        children = [stack.enter_context(process(config, command)) for command in ("join", "train", "serve")]
        wait_until((tmp_path / "port").exists, children)
        client = stack.enter_context(RankClient(f"127.0.0.1:{(tmp_path / 'port').read_text().strip()}"))
        log = open_log(job.log.url)
        stack.callback(log.close)
        num_requests = drive_until_liked_ranks_first(client, log, job, children)
    assert run(config, "join", "--stop-at-end").wait() == 0  # closes the windows of the last requests
    examples = all_examples(log := open_log(job.log.url), job)
    log.close()
    keys = [(r, int(i)) for batch in examples.batches for r, i in zip(batch.request_ids, batch.item_ids, strict=True)]
    assert len(keys) == len(set(keys)) == 2 * num_requests
    labels = {(int(i), float(y)) for b in examples.batches for i, y in zip(b.item_ids, b.labels["click"], strict=True)}
    assert labels == {(LIKED, 1.0), (IGNORED, 0.0)}


class AllExamples:
    """Every example record of the job's log."""

    def __init__(self, batches: list[ExampleBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)


def all_examples(log: object, job: JobConfig) -> AllExamples:
    topic = Topics.of(job.log).examples
    return AllExamples(
        [decode_examples(record.value) for p in range(job.log.partitions) for record in log.read(topic, p, 0, 10_000)]  # type: ignore[attr-defined]
    )


def drive_until_liked_ranks_first(client: RankClient, log: object, job: JobConfig, children: list[subprocess.Popen[bytes]]) -> int:
    """Ask for two candidates again and again, click one of them, until the replica has learnt it. Return the number of requests."""
    topic = Topics.of(job.log).actions
    for number in itertools.count():
        assert_running(children)
        request_id, time_ms = f"request-{number}", START_MS + number * MS_PER_REQUEST
        result = client.rank(
            number % 50, [LIKED, IGNORED], context={"tab": [1]}, request_id=request_id, time_ms=time_ms, timeout_s=CALL_TIMEOUT_S
        )
        action = Action(request_id, LIKED, "click", time_ms + 1)
        partition = partition_of(request_id, job.log.partitions)
        log.append(topic, [encode_action(action)], time_ms=action.time_ms, partition=partition)  # type: ignore[attr-defined]
        liked, ignored = result.scores[:, 0].tolist()
        if liked > ignored + 0.3:
            return number + 1
    raise AssertionError("numbers do not end")


def run(config: Path, command: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "monolith_py.cli", command, "--config", str(config), *arguments])


@contextmanager
def process(config: Path, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of the job's processes; at the end it must stop cleanly on SIGTERM."""
    child = run(config, command)
    try:
        yield child
        assert child.poll() is None, f"{command} died with {child.returncode}"
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 0, f"{command} did not stop cleanly"
    finally:
        child.kill()
        child.wait()


def wait_until(condition: Callable[[], bool], children: list[subprocess.Popen[bytes]]) -> None:
    """Wait for a condition that the children, which must all be running, bring about; pytest's timeout ends a wait in vain."""
    clock = SystemClock()
    while not condition():
        assert_running(children)
        clock.sleep(0.02)


def assert_running(children: list[subprocess.Popen[bytes]]) -> None:
    assert [child.poll() for child in children] == [None] * len(children)

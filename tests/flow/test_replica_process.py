"""The replica as a process: before and after its first checkpoint, valid and bad requests, updates, a clean stop."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from monolith_py.clock import SystemClock
from monolith_py.config import load_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import RankFailed
from monolith_py.io import open_kv, open_log
from monolith_py.io.codec import decode_impression, encode_features
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.pb import ranking_pb2, ranking_pb2_grpc
from monolith_py.sync import Generation, PublishedModel, Publisher
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint
from monolith_serving.client import RankClient

SERVICE = "monolith.v1.Ranking"
EVENT_MS = 1_700_000_000_000
CALL_TIMEOUT_S = 120.0  # against a hang alone
TOML = """
name = "replica"
sync.encoding = "fp32"
model = {{tower = [16], precision = "fp32"}}
tasks = [{{name = "click", action = "click"}}]
kv.url = "sqlite:///{folder}/kv.db"
[log]
url = "sqlite:///{folder}/log"
partitions = 3
[[features]]
name = "user_id"
source = "user_id"
[[features]]
name = "city"
source = "user"
[[features]]
name = "item_id"
source = "item_id"
[[features]]
name = "tab"
source = "context"
[[dense_features]]
name = "hour"
source = "context"
dim = 2
[trainer]
checkpoint_dir = "{folder}/checkpoints"
[serving]
port = {port}
port_file = "{folder}/port"
max_candidates = 50
checkpoint_poll_s = 0.1
reflection = true
max_request_age_s = 0.0
default_deadline_s = 60.0
"""


@pytest.fixture
def config(tmp_path: Path, reserved_port: socket.socket) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(TOML.format(folder=tmp_path, port=reserved_port.getsockname()[1]))
    return path


@pytest.fixture
def serve(config: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Return a function that starts the replica; its log lines go to a file beside the config."""
    children = []

    def start() -> subprocess.Popen[str]:
        with (tmp_path / "stderr").open("a") as stderr:
            command = [sys.executable, "-m", "monolith_py.cli", "serve", "--config", str(config)]
            children.append(subprocess.Popen(command, stderr=stderr, text=True))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def wait_until(condition: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    """Wait for a condition that the child, which must be running, brings about; pytest's timeout ends a wait in vain."""
    clock = SystemClock()
    while not condition():
        assert child.poll() is None, f"the replica ended with {child.returncode}"
        clock.sleep(0.02)


def failure_of(client: RankClient, item_ids: list[int], **arguments: object) -> tuple[str, str]:
    with pytest.raises(RankFailed) as caught:
        client.rank(1, item_ids, **({"timeout_s": CALL_TIMEOUT_S} | arguments))
    return caught.value.code, caught.value.details


class Home:
    """The trainer's side of the job: its tables and publisher, and a client of the replica."""

    def __init__(self, config: Path, stack: list[Callable[[], None]]) -> None:
        self.job = job = load_job(config)
        self.topics = Topics.of(job.log)
        self.log = open_log(job.log.url)
        stack.append(self.log.close)
        create_topics(self.log, job.log)
        self.trainer = Trainer(job)
        model = PublishedModel(self.trainer.bags.tables, self.trainer.export_dense, self.trainer.layout.identity(""))
        self.publisher = Publisher(self.log, self.topics, model, job.sync, SystemClock(), generation=Generation(1, "process"))
        stack.append(self.publisher.close)
        address = f"127.0.0.1:{job.serving.port}"
        self.client = RankClient(address)
        stack.append(self.client.close)
        self.channel = grpc.insecure_channel(address)
        stack.append(self.channel.close)

    def learn(self, num_steps: int) -> None:
        """Learn that item 1 is clicked and item 2 is not."""
        for _ in range(num_steps):
            size = 32
            items = np.tile(np.array([1, 2], np.int64), size // 2)
            columns = FeatureColumns(
                size, {"item_id": SparseColumn(items, np.ones(size, np.int32))}, {"hour": np.zeros((size, 2), np.float32)}
            )
            names = tuple(str(row) for row in range(size))
            times, kinds = np.full(size, 1000), np.zeros(size, np.uint8)
            self.trainer.step(
                ExampleBatch(names, items, times, kinds, np.ones(size, np.float32), {"click": (items == 1).astype(np.float32)}, columns)
            )
            self.publisher.note_step(self.trainer.bags.rows_touched)

    def save(self) -> None:
        end = self.publisher.flush(0)
        generation, next_seq = self.publisher.next_delta
        meta = CheckpointMeta("replica", self.trainer.num_batches, 0, generation, next_seq, end, {}, 0, SystemClock().now_ms())
        save_checkpoint(Path(self.job.trainer.checkpoint_dir), self.trainer, meta, keep=2)

    def health(self) -> str:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            status = health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=CALL_TIMEOUT_S).status
        except grpc.RpcError as error:
            return error.code().name
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)

    def impressions(self) -> dict:
        found = {}
        for partition in range(self.job.log.partitions):
            for record in self.log.read(self.topics.impressions, partition, 0, 1000):
                impression = decode_impression(record.value)
                found[impression.request_id] = impression
        return found


@pytest.fixture
def home(config: Path) -> Iterator[Home]:
    stack: list[Callable[[], None]] = []
    yield Home(config, stack)
    for close in reversed(stack):
        close()


def test_a_replica_from_start_to_clean_stop(home: Home, serve, tmp_path: Path):
    kv = open_kv(home.job.kv.url)
    city = FeatureColumns(1, {"city": SparseColumn(np.array([44], np.int64), np.array([1], np.int32))})
    kv.write({"user:1": encode_features(city)})
    kv.close()

    child = serve()
    wait_until(lambda: home.health() == "NOT_SERVING", child)
    code, details = failure_of(home.client, [1, 2])
    assert code == "UNAVAILABLE" and details == "the replica has loaded no checkpoint yet"
    assert not (tmp_path / "port").exists()

    home.save()
    wait_until(lambda: home.health() == "SERVING", child)
    assert (tmp_path / "port").read_text() == str(home.job.serving.port)
    assert services(home) >= {SERVICE, "grpc.health.v1.Health"}

    features = {"context": {"tab": [5, 6]}, "dense_context": {"hour": [0.5, 23.0]}}
    first = home.client.rank(1, [1, 2, 2], **features, request_id="first", time_ms=EVENT_MS, timeout_s=CALL_TIMEOUT_S)
    assert (first.request_id, first.task_names, first.scores.shape) == ("first", ("click",), (3, 1))
    assert ((first.scores > 0) & (first.scores < 1)).all() and first.scores[1] == first.scores[2]
    check_calls_without_a_deadline(home)
    check_bad_requests(home)
    check_updates(home, child, first.model_version)
    check_stop(home, child, first)
    log_lines = (tmp_path / "stderr").read_text()
    assert f"listening on 127.0.0.1:{home.job.serving.port}" in log_lines and "Traceback" not in log_lines


@pytest.fixture
def config_without_impressions(config: Path) -> Path:
    config.write_text(config.read_text() + "log_impressions = false\n")
    return config


def test_a_replica_can_rank_without_logging_impressions(config_without_impressions: Path, home: Home, serve):
    home.save()
    child = serve()
    wait_until(lambda: home.health() == "SERVING", child)
    assert home.client.rank(1, [1], timeout_s=CALL_TIMEOUT_S).scores.shape == (1, 1)
    child.terminate()
    assert child.wait(30) == 0
    assert home.impressions() == {}


def check_calls_without_a_deadline(home: Home) -> None:
    """Check that concurrent calls without a deadline, the default of every gRPC client, are answered, and later ones too."""
    stub = ranking_pb2_grpc.RankingStub(home.channel)
    for _ in range(3):
        calls = [stub.Rank.future(ranking_pb2.RankRequest(item_ids=[1, 2])) for _ in range(8)]
        assert all(len(call.result().scores) == 2 for call in calls)


def check_bad_requests(home: Home) -> None:
    assert failure_of(home.client, []) == ("INVALID_ARGUMENT", "item_ids must have 1 to 50 candidates, got 0")
    assert failure_of(home.client, [1] * 51) == ("INVALID_ARGUMENT", "item_ids must have 1 to 50 candidates, got 51")
    assert failure_of(home.client, [1], time_ms=-5) == (
        "INVALID_ARGUMENT",
        "time_ms must be 0 or >= 100000000000 (milliseconds since 1970), got -5",
    )
    assert failure_of(home.client, [1], context={"city": [1]}) == (
        "INVALID_ARGUMENT",
        "context must hold features among ['hour', 'tab'], got ['city']",
    )
    assert failure_of(home.client, [1], timeout_s=-1.0)[0] == "DEADLINE_EXCEEDED"
    damaged = ranking_pb2.RankRequest(item_ids=[1])
    damaged.context.sparse.add(name="tab", fids=[1, 2])
    with pytest.raises(grpc.RpcError) as caught:
        ranking_pb2_grpc.RankingStub(home.channel).Rank(damaged, timeout=CALL_TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def check_updates(home: Home, child: subprocess.Popen[str], old_version: str) -> None:
    """Check that the replica soon ranks with what the trainer has learnt."""
    home.learn(30)
    home.publisher.flush(0)
    new_version = "{}.{}".format(*home.publisher.next_delta)
    assert new_version != old_version
    wait_until(lambda: home.client.rank(9, [1], timeout_s=CALL_TIMEOUT_S).model_version == new_version, child)
    futures = [home.client.rank_async(9, [1, 2], timeout_s=CALL_TIMEOUT_S) for _ in range(40)]
    for future in futures:
        liked, ignored = future.result().scores[:, 0]
        assert liked > ignored + 0.1


def check_stop(home: Home, child: subprocess.Popen[str], first) -> None:
    """Check that a stop finishes the requests in progress and logs every served impression."""
    last = home.client.rank(1, [2], request_id="last", timeout_s=CALL_TIMEOUT_S)
    home.client.rank(1, [2], request_id="debug", timeout_s=CALL_TIMEOUT_S, log_impression=False)
    on_their_way = [home.client.rank_async(1, [1, 2] * 20, request_id=f"late-{number}", timeout_s=CALL_TIMEOUT_S) for number in range(20)]
    child.terminate()
    assert child.wait() == 0
    assert home.health() == "UNAVAILABLE"
    impressions = home.impressions()
    assert {future.result().request_id for future in on_their_way} <= impressions.keys()
    assert {"first", "last"} <= impressions.keys() and "debug" not in impressions
    impression = impressions["first"]
    assert (impression.time_ms, impression.user_id, impression.item_ids.tolist()) == (EVENT_MS, 1, [1, 2, 2])
    assert {name: column.fids.tolist() for name, column in impression.shared.sparse.items()} == {
        "user_id": [1],
        "city": [44],
        "tab": [5, 6],
    }
    assert impression.shared.dense["hour"].tolist() == [[0.5, 23.0]]
    assert impression.candidates.sparse["item_id"].fids.tolist() == [1, 2, 2]
    np.testing.assert_array_equal(impression.scores, first.scores)
    np.testing.assert_array_equal(impressions["last"].scores, last.scores)
    assert (impression.task_names, impression.model_version) == (("click",), first.model_version)


def services(home: Home) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(home.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (response,) = stub.ServerReflectionInfo(iter([request]), timeout=CALL_TIMEOUT_S)
    return {service.name for service in response.list_services_response.service}


def test_a_missing_topic_stops_the_start_with_one_line(serve, tmp_path: Path):
    assert serve().wait() == 1
    assert "TopicMissing: topic 'updates' does not exist: create it with `monolith topics`" in (tmp_path / "stderr").read_text()


@pytest.mark.usefixtures("home")  # makes the topics
def test_a_taken_port_stops_the_start_with_one_line(reserved_port: socket.socket, serve, tmp_path: Path):
    reserved_port.listen()
    assert serve().wait() == 1
    assert "ConfigError: serving.host and serving.port must be free to listen on" in (tmp_path / "stderr").read_text()

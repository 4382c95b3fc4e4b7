"""Surroundings of a drill: a job with its real processes, its log, servers that can be stopped, and a wall clock that can be set."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import redis

from monolith_demo.driver.ports import free_ports
from monolith_py.config import JobConfig, load_job
from monolith_py.data.events import DeadLetter
from monolith_py.io import Log, Record, open_log
from monolith_py.io.codec import decode_examples
from monolith_py.io.log.dead_letters import read_dead_letters
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.training import Checkpoint

# Bound of every wait. Ten times what the slowest wait takes on two busy cores.
WAIT_S = 240.0
_LOOK_S = 0.02
# Request id, item id, kind of the example, label.
Example = tuple[str, int, int, int]

_FEATURES = """
[[features]]
name = "user_id"
source = "user_id"
ttl_s = 21600
[[features]]
name = "video_id"
source = "item_id"
[[features]]
name = "city"
source = "user"
[[tasks]]
name = "click"
action = "click"
"""


def wait_until(condition: Callable[[], object], children: Sequence[Child] = (), wait_s: float = WAIT_S, look_s: float = _LOOK_S) -> None:
    """Wait for a condition; fail when it takes too long or one of `children` ends."""
    until_s = time.monotonic() + wait_s
    while not condition():
        for child in children:
            assert child.is_running, f"{child.name} ended with {child.process.returncode}:\n{child.said()[-3000:]}"
        assert time.monotonic() < until_s, f"waited in vain for {wait_s:.0f} s: {[child.said()[-3000:] for child in children]}"
        time.sleep(look_s)


class Child:
    """One process of the product; its lines on standard error go to a file."""

    def __init__(self, command: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
        self.name, self._output = output.name, output
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "monolith_py.cli", *command], stderr=file, env={**os.environ, **environment}
            )

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        """Return what the process has written to standard error."""
        return self._output.read_text(errors="replace")

    def stop(self) -> None:
        """Stop the process with SIGTERM; it must end cleanly."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_S) == 0, self.said()[-3000:]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def must_end_well(self) -> None:
        assert self.process.wait(WAIT_S) == 0, self.said()[-3000:]

    def must_refuse(self, error: str) -> None:
        """Check that the process ends by itself with the error of this name, without a traceback."""
        assert self.process.wait(WAIT_S) == 1, self.said()[-3000:]
        said = self.said()
        assert re.search(rf"^{error}: ", said, re.MULTILINE), said[-3000:]
        assert "Traceback" not in said, said[-6000:]


class Deployment:
    """One job in a folder: settings, topics, processes, and what its log holds. The roles in `metrics_of`, a word each, serve metrics."""

    def __init__(self, folder: Path, name: str, sections: Mapping[str, Mapping[str, object]], metrics_of: str = "") -> None:
        self.folder, self._children = folder, list[Child]()
        folder.mkdir()
        self.metric_roles = metrics_of.split()
        port, *metric_ports = free_ports(1 + len(self.metric_roles))
        self._metric_ports = dict(zip(self.metric_roles, metric_ports, strict=True))
        settings: dict[str, dict[str, object]] = {
            "log": {"url": f"sqlite:///{folder}/log", "partitions": 2},
            "kv": {"url": f"sqlite:///{folder}/kv.db"},
            "model": {"tower": [8], "precision": "fp32"},
            "joiner": {
                "window_s": 20.0,
                "max_out_of_orderness_s": 2.0,
                "allowed_lateness_s": 60.0,
                "idle_timeout_s": 1e6,
                "max_records": 50,
                "examples_per_record": 16,
                "linger_s": 0.02,
            },
            "trainer": {"batch_size": 32, "linger_s": 0.02, "checkpoint_dir": f"{folder}/checkpoints", "num_threads": 1},
            "sync": {"sparse_interval_s": 0.1, "dense_interval_s": 0.5, "encoding": "fp32"},
            "serving": {"port": port, "port_file": f"{folder}/port", "default_deadline_s": 60.0, "checkpoint_poll_s": 0.1},
            "observe": {f"{role}_port": metric_port for role, metric_port in self._metric_ports.items()},
        }
        for section, values in sections.items():
            settings.setdefault(section, {}).update(values)
        lines = [f"name = {json.dumps(name)}"]
        for section, values in settings.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.config = folder / "job.toml"
        self.config.write_text("\n".join(lines) + _FEATURES)
        self.job: JobConfig = load_job(self.config)
        self.topics = Topics.of(self.job.log)
        self.address = f"127.0.0.1:{port}"
        self.log: Log = open_log(self.job.log.url)
        create_topics(self.log, self.job.log)

    def start(self, command: str, *arguments: str, config: Path | None = None, **environment: str) -> Child:
        """Start `monolith COMMAND`, with another `config` if given; the other arguments by name are variables of its environment."""
        output = self.folder / f"{len(self._children)}-{command}.stderr"
        child = Child([command, "--config", str(config or self.config), *arguments], output, environment)
        self._children.append(child)
        return child

    def run(self, command: str, *arguments: str) -> Child:
        """Run `monolith COMMAND` to its end, which must be a good one."""
        child = self.start(command, *arguments)
        child.must_end_well()
        return child

    def close(self) -> None:
        for child in self._children:
            child.kill()
        self.log.close()

    def records(self, topic: str, places: dict[int, int] | None = None) -> Iterator[Record]:
        """Yield the records of a topic that the log still has; from the offsets `places` on, which are moved behind them."""
        places = {} if places is None else places
        for partition in range(self.log.num_partitions(topic)):
            offset = max(places.get(partition, 0), self.log.start_offset(topic, partition))
            while records := self.log.read(topic, partition, offset, 1000):
                offset = places[partition] = records[-1].offset + 1
                yield from records

    def num_records(self, topic: str) -> int:
        """Return the number of records that were ever appended to a topic."""
        return sum(self.log.end_offset(topic, partition) for partition in range(self.log.num_partitions(topic)))

    def examples(self) -> Counter[Example]:
        """Return how often each example is in the log."""
        found: Counter[Example] = Counter()
        for record in self.records(self.topics.examples):
            batch = decode_examples(record.value)
            labels = batch.labels["click"].astype(int).tolist()
            found.update(zip(batch.request_ids, batch.item_ids.tolist(), batch.kinds.tolist(), labels, strict=True))
        return found

    def dead_letters(self) -> list[DeadLetter]:
        return [letter for _, letter in read_dead_letters(self.log, self.topics.dead_letters, 1_000_000)]

    def checkpoint(self) -> Checkpoint:
        """Return the newest checkpoint."""
        checkpoint = Checkpoint.newest(Path(self.job.trainer.checkpoint_dir))
        assert checkpoint is not None
        return checkpoint

    def metric(self, name: str, role: str = "") -> float:
        """Return the sum of a metric's samples in the process of a role, by default the first of them, 0 while it serves none."""
        try:
            port = self._metric_ports[role or self.metric_roles[0]]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
                text = answer.read().decode()
        except OSError:
            return 0.0
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


class RedisServer:
    """One genuine redis-server that keeps every acknowledged write; its data survives `kill` and `start`, which takes new `options`."""

    def __init__(self, executable: str, folder: Path, options: Sequence[str]) -> None:
        folder.mkdir()
        self.folder, self.socket = folder, folder / "socket"
        self.url = f"unix://{self.socket}?db=0"
        (self.port,) = free_ports(1)
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket), "--dir", str(folder)]
        self._command, self.options = [executable, *own, "--appendonly", "yes", "--appendfsync", "always"], options
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        self.start()

    def start(self) -> None:
        with (self.folder / "stdout").open("ab") as output:
            self.process = subprocess.Popen([*self._command, *self.options], stdout=output)
        wait_until(self._answers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class WallClock:
    """Wall clock of processes that were started with `environment`; `shift` sets it while they run."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_SHIFT_FILE": str(file)}
        file.write_bytes(bytes(8))

    def shift(self, shift_s: float) -> None:
        """Let the clock be `shift_s` ahead of this machine's, behind it if negative."""
        with self._file.open("r+b") as file:  # the processes have mapped these bytes
            file.write(round(shift_s * 1000).to_bytes(8, "little", signed=True))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def send_bytes(address: str, value: bytes) -> None:
    """Send bytes to a server over a connection of their own."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(value)

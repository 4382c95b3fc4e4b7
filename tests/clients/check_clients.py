"""Apps in other languages: their clients' actions lie in the partitions of their impressions, and are read as sent.

`make test-clients` runs this file; a plain test run does not collect it, as it downloads clients (once, into the cache). A client whose
toolchain is missing is skipped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from monolith_py.data.events import Action
from monolith_py.io import Log
from monolith_py.io.codec import decode_action
from monolith_py.io.log.topics import partition_of

pytestmark = [pytest.mark.needs_kafka, pytest.mark.timeout(1_200)]

FOLDER, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PROTO = "monolith/v1/example.proto"
PARTITIONS = 8
SETUP_S, SEND_S = 900.0, 120.0  # against a hang alone
NUMBERS = itertools.count()
# Ids of every length modulo 4, outside of ASCII, and of the form that Rank returns; item ids over all 64 bits.
_ODD_IDS = ["a", "ab", "abc", "\u65e5\u672c\u8a9e", "\u00e9" * 7, "\U0001f642", "0f8fad5b-d9cb-469f-a165-70867728950e"]
IDS = [
    *(f"r{number}" for number in range(40)),
    "a",
    "ab",
    "abc",
    "\u65e5\u672c\u8a9e",
    "\u00e9" * 7,
    "\U0001f642",
    "0f8fad5b-d9cb-469f-a165-70867728950e",
]
ITEM_IDS = [7, -1, (1 << 63) - 1, -(1 << 63), 1 << 53 | 1]
ACTIONS = [
    Action(request_id, item_id, "click", 1_700_000_000_000 + number, 0.5)
    for number, (request_id, item_id) in enumerate(zip(IDS, itertools.cycle(ITEM_IDS), strict=False))
]


def run(command: Sequence[str], folder: Path, *, lines: str = "", timeout_s: float = SETUP_S) -> None:
    done = subprocess.run(command, cwd=folder, input=lines, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def prepared(name: str, setup: Callable[[Path], None]) -> Path:
    """Return a folder with the client's program and its libraries, made once for each state of its sources."""
    sources = [*sorted((FOLDER / name).iterdir()), ROOT / "protos" / PROTO]
    state = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "monolith-py" / "clients" / f"{name}-{state}"
    if not (cache / "ready").exists():
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(FOLDER / name, cache)
        shutil.copytree(ROOT / "protos" / "monolith", cache / "monolith")
        setup(cache)
        (cache / "ready").touch()
    return cache


def protoc(folder: Path, *arguments: str) -> None:
    run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *arguments, PROTO], folder)


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"NO {tool.upper()}, so nothing is known about its clients: install {tool}")


def set_up_go(folder: Path) -> None:
    (folder / "pb").mkdir()
    run(["go", "install", "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11"], folder)
    gopath = subprocess.run(["go", "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip()
    plugin = f"--plugin=protoc-gen-go={gopath}/bin/protoc-gen-go"
    protoc(folder, plugin, "--go_out=pb", "--go_opt=paths=source_relative", f"--go_opt=M{PROTO}=actions/pb")
    generated = (folder / "pb" / PROTO).with_suffix(".pb.go")
    generated.rename(folder / "pb" / generated.name)
    run(["go", "mod", "tidy"], folder)
    run(["go", "build", "-o", "send", "."], folder)


def set_up_java(folder: Path) -> None:
    run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"], folder)
    compiler = "com.google.protobuf:protoc:4.33.6:exe:linux-x86_64"  # grpc_tools has no Java
    run(["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={compiler}", "-DoutputDirectory=bin"], folder)
    (program,) = (folder / "bin").iterdir()
    program.chmod(0o755)
    run([str(program), "-I.", "--java_out=.", PROTO], folder)
    generated = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.java") if path.name != "Send.java")
    run(["javac", "-nowarn", "-cp", "lib/*", "-d", "classes", "Send.java", *generated], folder)


def go_franz() -> tuple[Path, list[str], bool]:
    need("go")
    return prepared("go_franz", set_up_go), ["./send"], False


def go_segmentio() -> tuple[Path, list[str], bool]:
    need("go")
    return prepared("go_segmentio", set_up_go), ["./send"], False


def node_kafkajs() -> tuple[Path, list[str], bool]:
    need("node", "npm")
    set_up = lambda folder: run(["npm", "install", "--no-audit", "--no-fund"], folder)  # noqa: E731
    return prepared("node_kafkajs", set_up), ["node", "send.js"], False


def java() -> tuple[Path, list[str], bool]:
    need("java", "javac", "mvn")
    return prepared("java", set_up_java), ["java", "-cp", "classes:lib/*", "Send"], True


def librdkafka() -> tuple[Path, list[str], bool]:
    def set_up(folder: Path) -> None:
        run([sys.executable, "-m", "pip", "install", "-q", "--target", "lib", "confluent-kafka==2.12.2"], folder)

    return prepared("librdkafka", set_up), ["env", "PYTHONPATH=lib", sys.executable, "send.py"], False


CLIENTS = [go_franz, go_segmentio, node_kafkajs, java, librdkafka]


def sent(log: Log, url: str, client: tuple[Path, list[str], bool], *options: str) -> dict[int, list[Action]]:
    """Send all actions by a client and return those in each partition."""
    folder, command, with_tabs = client
    topic = f"clients.{next(NUMBERS)}.actions"
    log.create_topic(topic, PARTITIONS)
    rows = [(one.request_id, str(one.item_id), one.kind, one.time_ms, one.value) for one in ACTIONS]
    names = ("request_id", "item_id", "kind", "time_ms", "value")
    lines = ["\t".join(map(str, row)) if with_tabs else json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    run([*command, url.removeprefix("kafka://"), topic, *options], folder, lines="\n".join(lines) + "\n", timeout_s=SEND_S)
    found = {}
    for partition in range(PARTITIONS):
        records = log.read(topic, partition, 0, 1_000, timeout_s=1.0)
        found[partition] = [decode_action(record.value) for record in records]
        assert [record.time_ms for record in records] == [action.time_ms for action in found[partition]], "the event time of a record"
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_actions_lie_where_the_joiner_looks_and_are_read_as_sent(
    client: Callable[[], tuple[Path, list[str], bool]], kafka_url: str, make_log: Callable[..., Log]
) -> None:
    found = sent(make_log(kafka_url), kafka_url, client())
    expected: dict[int, list[Action]] = {partition: [] for partition in range(PARTITIONS)}
    for action in ACTIONS:
        expected[partition_of(action.request_id, PARTITIONS)].append(action)
    assert found == expected


def test_the_default_partitioner_of_librdkafka_is_another_one(kafka_url: str, make_log: Callable[..., Log]) -> None:
    """The warning of deploy/README.md is still needed."""
    found = sent(make_log(kafka_url), kafka_url, librdkafka(), "consistent_random")
    right = sum(partition_of(action.request_id, PARTITIONS) == partition for partition, actions in found.items() for action in actions)
    assert right < len(ACTIONS) / 2

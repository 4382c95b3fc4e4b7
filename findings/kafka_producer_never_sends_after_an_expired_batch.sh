#!/usr/bin/env bash
# kafka-python 3.0.12: after one batch that expired, an idempotent producer never sends again, to any topic.
#
# KafkaProducer is idempotent by default. A broker that stands still for longer than delivery_timeout_ms (here by SIGSTOP, in life a paused
# virtual machine or a cut network) lets the batch on its way expire with KafkaTimeoutError, a retriable error. The broker goes on, other
# clients work, but each later send of this producer times out as well, for as long as the process lives. Java's producer raises the epoch
# of its id and goes on. A new producer sends at once; a plain one (enable_idempotence=False) goes on by itself.
#
# Output seen, 2026-11-30, Apache Kafka 4.3.1:
#   idempotent: before: ok; while it stands still: KafkaTimeoutError; after: KafkaTimeoutError; a new producer: ok
#   plain:      before: ok; while it stands still: KafkaTimeoutError; after: ok; a new producer: ok
#
# Needs Java 17 and Maven beside Python. Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill -9 "$broker" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q kafka-python==3.0.12 crc32c==2.8
cd "$work"
cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId>
<version>1</version><dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.3.1</version>
</dependency></dependencies></project>
XML
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
read -r port controller < <(python3 -c 'import socket
sockets = [socket.socket() for _ in range(2)]
for one in sockets: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))')
cat > server.properties <<CONFIG
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
controller.listener.names=CONTROLLER
log.dirs=$work/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
CONFIG
java -cp 'lib/*' kafka.tools.StorageTool format --standalone -t MkU3OEVBNTcwNTJENDM2Qk -c server.properties > format.log 2>&1
java -Xmx512m -cp 'lib/*' kafka.Kafka server.properties > broker.log 2>&1 &
broker=$!
"$work/venv/bin/python" - "$port" "$broker" <<'PYTHON'
import os
import signal
import sys
import time

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError

address, broker = f"127.0.0.1:{sys.argv[1]}", int(sys.argv[2])
for _ in range(60):
    try:
        admin = KafkaAdminClient(bootstrap_servers=address)
        break
    except KafkaError:
        time.sleep(1.0)
admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1} for name in ("one", "other")})


def outcome(producer: KafkaProducer, name: str) -> str:
    """Send one record and return ok or the error's class."""
    try:
        producer.send(name, b"value").get(timeout=40.0)
    except KafkaError as error:
        return type(error).__name__
    return "ok"


seen, kept = {}, []
for label, is_idempotent in (("idempotent", True), ("plain", False)):
    settings = {"bootstrap_servers": address, "request_timeout_ms": 5_000, "delivery_timeout_ms": 10_000, "linger_ms": 0}
    producer = KafkaProducer(enable_idempotence=is_idempotent, reconnect_backoff_max_ms=500, **settings)
    results = [outcome(producer, "one")]
    os.kill(broker, signal.SIGSTOP)
    results.append(outcome(producer, "one"))
    os.kill(broker, signal.SIGCONT)
    results.append(outcome(producer, "other"))
    kept += [producer, KafkaProducer(**settings)]  # one that is freed waits for its batches, and says so
    results.append(outcome(kept[-1], "other"))
    seen[label] = results
    print(f"{label + ':':<12}" + "before: {}; while it stands still: {}; after: {}; a new producer: {}".format(*results), flush=True)
assert seen["idempotent"][0] == seen["idempotent"][3] == "ok" and "ok" not in seen["idempotent"][1:3]
assert seen["plain"][1] != "ok" and seen["plain"][2] == "ok"
os._exit(0)  # the stuck producer would be waited for
PYTHON

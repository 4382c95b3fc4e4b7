#!/usr/bin/env bash
# kafka-python 3.0.12: one record that the broker refuses ends an idempotent producer for good, for every topic.
#
# KafkaProducer is idempotent by default. A record that a topic cannot take (here: one without a key for a compacted topic) fails with
# InvalidRecordError, as it should. From then on each send to any other topic raises as well: the producer has gone into its fatal error
# state and answers with the first error until the process makes a new one. A service that shares one producer between topics stops
# writing all topics because of one record of one topic. With enable_idempotence=False the next sends succeed.
#
# Output seen, 2026-11-30, Apache Kafka 4.3.1:
#   idempotent: first record: ok; refused record: InvalidRecordError; next record, other topic: InvalidRecordError
#   plain:      first record: ok; refused record: InvalidRecordError; next record, other topic: ok
#
# Needs Java 17 and Maven beside Python. Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
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
"$work/venv/bin/python" - "$port" <<'PYTHON'
import sys
import time

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError

address = f"127.0.0.1:{sys.argv[1]}"
for _ in range(60):
    try:
        admin = KafkaAdminClient(bootstrap_servers=address)
        break
    except KafkaError:
        time.sleep(1.0)
topic = {"num_partitions": 1, "replication_factor": 1}
admin.create_topics({"plain": topic, "compacted": {**topic, "configs": {"cleanup.policy": "compact"}}})


def outcome(producer: KafkaProducer, name: str) -> str:
    """Send one record without a key and return ok or the error's class."""
    try:
        producer.send(name, b"value").get(timeout=30.0)
    except KafkaError as error:
        return type(error).__name__
    return "ok"


seen = {}
for label, is_idempotent in (("idempotent", True), ("plain", False)):
    producer = KafkaProducer(bootstrap_servers=address, enable_idempotence=is_idempotent)
    seen[label] = [outcome(producer, name) for name in ("plain", "compacted", "plain")]
    text = "first record: {}; refused record: {}; next record, other topic: {}".format(*seen[label])
    print(f"{label + ':':<12}{text}")
    producer.close(timeout=5.0)
assert seen["plain"][0] == seen["plain"][2] == "ok" and seen["plain"][1] != "ok"
assert seen["idempotent"][0] == "ok" and seen["idempotent"][1] != "ok" and seen["idempotent"][2] != "ok"
PYTHON

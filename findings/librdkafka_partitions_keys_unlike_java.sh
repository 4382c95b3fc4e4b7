#!/usr/bin/env bash
# librdkafka 2.15.0: by default the same key goes to another partition than from Java's client, so co-partitioned topics do not meet.
#
# Kafka's Java client, Kafka Streams and kafka-python partition a record by murmur2 of its key. librdkafka, beneath the clients of Go
# (confluent-kafka-go), .NET, Node and Python (confluent-kafka), takes CRC-32 unless `partitioner` is set: "consistent_random". A service
# that is ported from one client to the other goes on without an error, but its records lie where a join by partition does not look: with
# P partitions all but one in P of them. With `partitioner: murmur2_random` both agree.
#
# Output seen, 2026-11-30, confluent-kafka 2.15.0, kafka-python 3.0.12, 4 partitions, librdkafka's own broker for tests:
#   partitioner default:        109 of 400 keys in the partition of murmur2
#   partitioner murmur2_random: 400 of 400 keys in the partition of murmur2
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q confluent-kafka==2.15.0 kafka-python==3.0.12
"$work/venv/bin/python" - <<'PYTHON'
import confluent_kafka
from kafka.partitioner.default import murmur2

PARTITIONS = list(range(4))  # of a topic that the broker for tests creates
KEYS = [b"request-%d" % number for number in range(400)]
java = {key: (murmur2(key) & 0x7FFFFFFF) % len(PARTITIONS) for key in KEYS}  # as BuiltInPartitioner.partitionForKey


def num_alike(**settings: str) -> int:
    """Return the number of keys that librdkafka puts into the partition of Java's client."""
    placed = {}

    def delivered(error: object, message: confluent_kafka.Message) -> None:
        assert error is None, error
        placed[message.key()] = message.partition()

    producer = confluent_kafka.Producer({"test.mock.num.brokers": 1, **settings})
    for key in KEYS:
        producer.produce("actions", b"value", key, on_delivery=delivered)
    assert producer.flush(60.0) == 0
    assert set(placed.values()) == set(PARTITIONS)
    return sum(placed[key] == java[key] for key in KEYS)


by_default, murmur2 = num_alike(), num_alike(partitioner="murmur2_random")
print("librdkafka", confluent_kafka.libversion()[0])
print(f"partitioner default:        {by_default} of {len(KEYS)} keys in the partition of murmur2")
print(f"partitioner murmur2_random: {murmur2} of {len(KEYS)} keys in the partition of murmur2")
assert murmur2 == len(KEYS)
assert by_default < len(KEYS) / 2
PYTHON

"""Settings of Kafka topics, of those that the log creates and the check of those that exist; their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kafka import KafkaAdminClient

# Largest record: far above a delta of 8192 rows or 4096 examples.
MAX_RECORD_BYTES = 16 << 20
# Largest timestamp: no limit.
_FOREVER_MS = 2**63 - 1

TOPIC_SETTINGS = {
    "retention.ms": "-1",
    "max.message.bytes": str(MAX_RECORD_BYTES),
    "message.timestamp.type": "CreateTime",
    # Replayed and simulated streams may be ahead of the broker's clock.
    "message.timestamp.after.max.ms": str(_FOREVER_MS),
}


def setting_faults(topic: str, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each setting of an existing topic that refuses, changes or deletes records of ours.

    >>> list(setting_faults("actions", {"cleanup.policy": {"value": "compact"}}))
    ["topic 'actions': cleanup.policy must be delete, got compact: a compacted topic refuses records without a key"]
    """
    values = {name: str(entry["value"]) for name, entry in settings.items()}
    policy = values.get("cleanup.policy", "delete")
    if policy != "delete":
        yield f"topic {topic!r}: cleanup.policy must be delete, got {policy}: a compacted topic refuses records without a key"
    max_bytes = int(values.get("max.message.bytes", MAX_RECORD_BYTES))
    if max_bytes < MAX_RECORD_BYTES:
        yield f"topic {topic!r}: max.message.bytes should be {MAX_RECORD_BYTES}, got {max_bytes}: larger records become dead letters"
    after_ms = int(values.get("message.timestamp.after.max.ms", _FOREVER_MS))
    if after_ms < _FOREVER_MS:
        yield f"topic {topic!r}: message.timestamp.after.max.ms should be {_FOREVER_MS}, got {after_ms}: records ahead of it are refused"
    if values.get("message.timestamp.type", "CreateTime") != "CreateTime":
        yield f"topic {topic!r}: message.timestamp.type must be CreateTime, got {values['message.timestamp.type']}"


def retention_of(settings: Mapping[str, Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """Return age in milliseconds and bytes of a partition at which the broker deletes; None for no limit.

    >>> retention_of({"retention.ms": {"value": "604800000"}, "retention.bytes": {"value": "-1"}})
    (604800000, None)
    """
    if "delete" not in str(settings.get("cleanup.policy", {}).get("value", "delete")):
        return None, None
    ms, num_bytes = (int(settings.get(name, {}).get("value", -1)) for name in ("retention.ms", "retention.bytes"))
    return None if ms < 0 else ms, None if num_bytes < 0 else num_bytes


def topic_bytes(admin: KafkaAdminClient, topic: str) -> int:
    """Return the bytes of a topic on the brokers' disks: of its largest replica, over all partitions."""
    largest: dict[int, int] = {}
    for broker in admin.describe_log_dirs([topic]):
        for folder in broker["log_dirs"]:
            for entry in folder["topics"]:
                for one in entry["partitions"]:
                    number = one["partition_index"]
                    largest[number] = max(largest.get(number, 0), one["partition_size"])
    return sum(largest.values())

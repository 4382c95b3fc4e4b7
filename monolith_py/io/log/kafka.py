"""The Log on Apache Kafka. Only the modules kafka*.py import kafka-python.

Appends are idempotent and acknowledged by all in-sync replicas, so a retry within the client neither doubles nor reorders a record. Reads
assign partitions and seek: offsets are in our checkpoints, without a consumer group. Reads return committed records only, and the end
offset is the end of the committed records.

A header holds the event time, not the record's timestamp: a broker forgets an idempotent producer with records a day old by their
timestamps, and after a crash accepts a retry of such a record as a new one (measured with Kafka 4.3: one doubled at nearly every kill -9).
The timestamp is the later of event time and now, so no record with an event time of at least t is before the first with a timestamp of at
least t: a look-up of a time is Kafka's own index, then a scan forward. For records of other producers, without the header, the timestamp is
the event time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from kafka import IsolationLevel, OffsetSpec, TopicPartition
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType
from kafka.errors import RetriableError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from monolith_py.clock import Clock, SystemClock
from monolith_py.config.security import LogSecurityConfig
from monolith_py.errors import LogError, OffsetTrimmed, RecordRefused, RecordsDamaged, TopicMissing
from monolith_py.io.log.kafka_access import access_settings, open_admin
from monolith_py.io.log.kafka_errors import mapped_errors
from monolith_py.io.log.kafka_producer import RecordProducer, open_producer
from monolith_py.io.log.kafka_reader import DamagedBatch, PartitionReader
from monolith_py.io.log.kafka_topics import MAX_RECORD_BYTES, TOPIC_SETTINGS, retention_of, setting_faults, topic_bytes
from monolith_py.io.log.kafka_writer import TRANSACTION_TIMEOUT_MS, KafkaWriter
from monolith_py.io.log.log import Record, TopicInfo, check_read, check_topic, event_times

_logger = logging.getLogger(__name__)

# A broker that was killed is back within 6 to 15 s. Afterwards a call fails with a LogError.
_TIMEOUT_S = 30.0
_RETRY_PAUSE_S = 0.1
# A batch that cannot be decoded is fetched again this often: the connection may have damaged it, not the disk.
_DAMAGED_ATTEMPTS = 3
# The number of partitions is asked for again after this time, and for an unknown partition: an operator may add some.
_PARTITIONS_AGE_S = 5.0
# Kafka's limit includes the record's own header.
_RECORD_OVERHEAD_BYTES = 1024
_CONNECTION = {
    "reconnect_backoff_max_ms": 500,  # by default up to 30 s after the broker is back
    "request_timeout_ms": 10_000,
    "bootstrap_timeout_ms": int(_TIMEOUT_S * 1000),
}
_SCAN_RECORDS = 5_000
_OPEN = LogSecurityConfig()
_Result = TypeVar("_Result")


class KafkaLog:
    """A `Log` on the Kafka cluster of `servers` (host:port each). Safe for threads; not usable across a fork.

    Topics that it creates keep their records until they are trimmed.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        timeout_s: float = _TIMEOUT_S,
        clock: Clock | None = None,
        security: LogSecurityConfig = _OPEN,
    ) -> None:
        """Connect to the cluster; the environment has the password of `security`.

        Raises:
            ConfigError: a secret or a file of TLS is missing.
            LogDenied: the cluster refuses the user, the password or a certificate.
        """
        self._clock = clock or SystemClock()
        self._settings = {**_CONNECTION, "bootstrap_servers": list(servers), "bootstrap_timeout_ms": int(timeout_s * 1000)}
        self._settings |= access_settings(security)
        self._timeout_s = timeout_s
        self._name = f"kafka://{','.join(servers)}"
        self._lock = threading.Lock()
        self._num_partitions: dict[str, tuple[int, float]] = {}  # and when it was asked for
        self._readers: dict[tuple[str, TopicPartition], PartitionReader] = {}
        self._producer = RecordProducer(self._settings, timeout_s, self._clock)
        self._closed = False
        self._admin = open_admin(self._name, self._settings)

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        """Create `topic` with the cluster's default number of replicas; warn of settings of an existing one."""
        check_topic(topic, num_partitions)
        wanted = {topic: {"num_partitions": num_partitions, "replication_factor": -1, "configs": TOPIC_SETTINGS}}
        try:
            self._retry(topic, lambda: self._admin.create_topics(wanted, wait_for_metadata=True))
        except LogError as error:
            if not isinstance(error.__cause__, TopicAlreadyExistsError):
                raise
            for fault in setting_faults(topic, self._settings_of(topic)):
                _logger.warning("%s", fault)

    def num_partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        count, asked_s = self._num_partitions.get(topic, (0, 0.0))
        now_s = time.monotonic()
        return self._ask_partitions(topic) if count == 0 or now_s - asked_s > _PARTITIONS_AGE_S else count

    def _ask_partitions(self, topic: str) -> int:
        (found,) = self._retry(topic, lambda: self._admin.describe_topics([topic]))
        count = len(found["partitions"])
        if count == 0:
            raise TopicMissing(topic)
        self._num_partitions[topic] = count, time.monotonic()
        return count

    def describe(self, topic: str) -> TopicInfo:
        """Return the topic's id in the cluster, and its limits."""
        (found,) = self._retry(topic, lambda: self._admin.describe_topics([topic]))
        if not found["partitions"]:
            raise TopicMissing(topic)
        settings = self._settings_of(topic)
        most = int(settings.get("max.message.bytes", {}).get("value", MAX_RECORD_BYTES))
        return TopicInfo(str(found["topic_id"]), min(most, MAX_RECORD_BYTES) - _RECORD_OVERHEAD_BYTES, *retention_of(settings))

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        """Append all values in order and return the offset after the last once all in-sync replicas have them.

        After a `LogError` the log may have some of the values, or all.
        """
        times_ms = event_times(time_ms, len(values))
        self._partition(topic, partition)
        self.check_size(topic, partition, values)
        if not values:
            return self.end_offset(topic, partition)
        with mapped_errors(f"{self._name}: {topic!r}[{partition}]"):
            last = self._producer.send(TopicPartition(topic, partition), values, times_ms)
        # The broker does not return the offset of a record that it already had before a retry.
        return last + 1 if last >= 0 else self.end_offset(topic, partition)

    def check_size(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        """Check the size of `values` before a producer gets them.

        Raises:
            RecordRefused: one is too large for Kafka.
        """
        for value in values:
            if len(value) > MAX_RECORD_BYTES - _RECORD_OVERHEAD_BYTES:
                rule = f"a record must have at most {MAX_RECORD_BYTES >> 20} MiB"
                raise RecordRefused(f"{topic!r}[{partition}]: {rule}, got {len(value)} bytes")

    def writer(self, topic: str, partition: int, name: str) -> KafkaWriter:
        """Return the writer `name` of the partition, and fence the one before it, by the transactional id of both."""
        place = self._partition(topic, partition)
        options = {"transactional_id": f"monolith.{topic}.{partition}.{name}", "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS}
        opened = partial(open_producer, self._settings, self._timeout_s, **options)
        return KafkaWriter(self, opened, place, self._timeout_s, self._clock)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        """Return up to `max_records` records from `offset` on; wait up to `timeout_s` for the first.

        Waits for a broker that is away, up to the log's own timeout.

        Raises:
            OffsetTrimmed: records at `offset` existed and are gone.
            RecordsDamaged: records at `offset` cannot be decoded.
            LogError: `offset` is beyond the end of the log, or the broker stays away.
        """
        check_read(offset, max_records)
        name = self._partition(topic, partition)
        return self._read(self._reader("read", name), offset, max_records, max(timeout_s, 0.0))

    def _read(self, reader: PartitionReader, offset: int, max_records: int, timeout_s: float) -> list[Record]:
        topic, partition = reader.name
        gives_up = time.monotonic() + timeout_s + self._timeout_s
        num_damaged = 0
        while True:
            try:
                with mapped_errors(f"{self._name}: {topic!r}[{partition}]"):
                    records = reader.poll(offset, max_records, timeout_s)
            except DamagedBatch as error:
                num_damaged += 1
                if num_damaged < _DAMAGED_ATTEMPTS:
                    _logger.warning("%r[%d]: reading offset %d again: %s", topic, partition, offset, error)
                    continue
                with mapped_errors(self._name):
                    readable = reader.offset_after_damage(offset, self.end_offset(topic, partition), self._timeout_s)
                raise RecordsDamaged(topic, partition, offset, readable, str(error)) from error
            if records:
                return records
            # An empty poll has four possible reasons: there is no record, the broker is away (the look-up waits for it), the offset is out
            # of range, or records exist and have not arrived yet.
            end = self.end_offset(topic, partition)
            if offset <= end <= reader.position:
                return []
            start = self.start_offset(topic, partition)
            if offset < start:
                raise OffsetTrimmed(topic, partition, offset, start)
            if offset > end:
                raise LogError(f"{topic!r}[{partition}]: offset {offset} is beyond the end of the log, {end}")
            if time.monotonic() > gives_up:
                rule = f"records {offset} to {end} must be readable, got none within {self._timeout_s:.0f} s"
                raise LogError(f"{self._name}: {topic!r}[{partition}]: {rule}")
            timeout_s = _RETRY_PAUSE_S

    def start_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the oldest record."""
        return self._offset(topic, partition, OffsetSpec.EARLIEST)

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset after the last committed record."""
        return self._offset(topic, partition, OffsetSpec.LATEST)

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is >= `time_ms`, or the end offset."""
        offset, end = self._offset(topic, partition, max(time_ms, 0)), self.end_offset(topic, partition)
        if offset < 0:
            return end
        # A separate reader: that of `read` keeps its position.
        reader = self._reader("scan", TopicPartition(topic, partition))
        while records := self._read(reader, offset, _SCAN_RECORDS, 0.0):
            for record in records:
                if record.time_ms >= time_ms:
                    return record.offset
            offset = records[-1].offset + 1
        return max(offset, end)

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete records before `before_offset`; Kafka frees their space at its next clean-up."""
        name = self._partition(topic, partition)
        start, end = self.start_offset(topic, partition), self.end_offset(topic, partition)
        if before_offset > start:
            wanted = {name: min(before_offset, end)}
            self._retry(topic, lambda: self._admin.delete_records(wanted, timeout_ms=int(self._timeout_s * 1000)))

    def num_bytes(self, topic: str) -> int:
        """Return the bytes of the topic on the brokers' disks, without replicas."""
        return self._retry(topic, lambda: topic_bytes(self._admin, topic))

    def close(self) -> None:
        """Close all connections."""
        with self._lock, mapped_errors(self._name):
            self._closed = True
            readers, self._readers = self._readers, {}
            for reader in readers.values():
                reader.close()
            self._producer.close()
            self._admin.close()

    def _partition(self, topic: str, partition: int) -> TopicPartition:
        if self._closed:
            raise LogError(f"{self._name}: the log is closed")
        count = self.num_partitions(topic)
        if partition >= count:
            count = self._ask_partitions(topic)
        if not 0 <= partition < count:
            raise LogError(f"{topic!r}: partition must be in [0, {count}), got {partition}")
        return TopicPartition(topic, partition)

    def _reader(self, purpose: str, name: TopicPartition) -> PartitionReader:
        with self._lock:
            return self._readers.setdefault((purpose, name), PartitionReader(name, self._settings))

    def _offset(self, topic: str, partition: int, spec: int) -> int:
        name = self._partition(topic, partition)
        found = self._retry(topic, lambda: self._admin.list_partition_offsets({name: spec}, isolation_level=IsolationLevel.READ_COMMITTED))
        return int(found[name].offset)

    def _settings_of(self, topic: str) -> dict[str, Any]:
        """Return the settings of an existing topic by name, defaults included; none where the cluster does not show them."""
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        try:
            found = self._retry(topic, lambda: self._admin.describe_configs([resource], config_filter=ConfigFilterType.ALL))
        except LogError as error:
            _logger.warning("settings of topic %r are unknown: %s", topic, error)
            return {}
        return next((settings for topics in found.values() for name, settings in topics.items() if name == topic), {})

    def _retry(self, topic: str, operation: Callable[[], _Result]) -> _Result:
        """Return the result of `operation`; while the broker is away, repeat it until the timeout."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                with mapped_errors(self._name):
                    return operation()
            except LogError as error:
                missing = isinstance(error.__cause__, UnknownTopicOrPartitionError)
                # A broker that has just restarted may not know topics yet that we have seen.
                may_pass = isinstance(error.__cause__, RetriableError) and not (missing and topic not in self._num_partitions)
                if may_pass and time.monotonic() < deadline:
                    time.sleep(_RETRY_PAUSE_S)
                    continue
                if missing:
                    raise TopicMissing(topic) from error
                raise

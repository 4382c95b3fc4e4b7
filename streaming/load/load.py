"""Load of tables into a job: features into the store, history into the log."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.config.load import LoadColumns
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.errors import ArchiveError, ConfigError
from monolith_py.io import Kv, Log
from monolith_py.io.codec import encode_action, encode_impression
from monolith_py.io.log.log import is_topic_name
from monolith_py.io.log.topics import Topics
from monolith_streaming.load.bad_rows import BadRows
from monolith_streaming.load.features import Entity, ServedFeatures, read_entities, stored_features, write_entities
from monolith_streaming.load.history import Actions, HistoryTables, Requests
from monolith_streaming.load.table_file import TableFile
from monolith_streaming.load.writer import HistoryWriter, Timed, merged

_logger = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Tables:
    """Parquet files of a load, each optional."""

    users: Path | None = None
    items: Path | None = None
    impressions: Path | None = None
    actions: Path | None = None


@dataclass(frozen=True)
class LoadOptions:
    """Options of a load."""

    columns: LoadColumns = field(default_factory=LoadColumns)
    prefix: str | None = None  # of the topics of the history; None: the job's own
    skip_bad_rows: bool = False


@dataclass(frozen=True)
class LoadResult:
    """Counts of a load. `bad_rows`: rows left out, by file, column and rule. `loaded_before`: an earlier run had loaded the history."""

    users: int
    items: int
    impressions: int
    actions: int
    refused: int
    bad_rows: dict[str, int]
    loaded_before: bool


def load_tables(job: JobConfig, tables: Tables, log: Log, kv: Kv, clock: Clock, options: LoadOptions | None = None) -> LoadResult:
    """Write features of users and items into `kv`, impressions and actions into `log`; nothing before every row is checked.

    A load that was interrupted may be run again with the same tables: the log gets every record once.

    Raises:
        AlreadyRunning: another load into the topics is at work.
        ArchiveError: a file cannot be read.
        ConfigError: no table, or a topic of the history has records that are as late as the history.
        WireError: a column is missing or of a wrong type, or a row breaks a rule.
    """
    if tables == Tables():
        raise ConfigError("a load must have a table: --users, --items, --impressions or --actions, got none")
    load = _Load(job, log, kv, clock, options or LoadOptions())
    files = {name: load.file(path) for name, path in vars(tables).items() if path is not None}
    # 1. Check all rows.
    for entity in ("user", "item"):
        load.entities(entity, files.get(f"{entity}s"), write=False)
    requests, actions = load.history(files.get("impressions"), files.get("actions"))
    writer = load.writer(tables, requests, actions)
    bad: Counter[str] = sum((file.bad.counts for file in files.values()), Counter())
    # 2. Write: features first, the history's impressions read them.
    users, items = (load.entities(entity, files.get(f"{entity}s"), write=True) for entity in ("user", "item"))
    loaded_before = writer is not None and writer.state()[1]
    if writer is not None:
        records = merged(load.impression_records(requests), load.action_records(actions))
        writer.write(records, lambda: load.check_order(requests, actions))
    num_requests = len(requests.request_ids) if requests else 0
    refused = writer.refused if writer else 0
    return LoadResult(users, items, num_requests, len(actions), refused, dict(bad), loaded_before)


class _Load:
    """Parts of one load."""

    def __init__(self, job: JobConfig, log: Log, kv: Kv, clock: Clock, options: LoadOptions) -> None:
        prefix = job.log.topic_prefix if options.prefix is None else options.prefix
        self._job, self._log, self._kv, self._clock, self._options = job, log, kv, clock, options
        self._topics = Topics.of(job.log.model_copy(update={"topic_prefix": prefix}))
        if not is_topic_name(self._topics.impressions):
            raise ConfigError(f"prefix must be letters, digits, '.', '_' or '-', got {prefix!r}")
        self._schema = Schema.of(job)
        self._tables = HistoryTables(job, EventTimeRule.of(job.log), clock.now_ms())
        self._features = ServedFeatures(job, kv)

    def file(self, path: Path) -> TableFile:
        """Open one table."""
        return TableFile(path, BadRows(path, skip=self._options.skip_bad_rows))

    def entities(self, entity: Entity, table: TableFile | None, *, write: bool) -> int:
        """Check the rows of a table of users or items, and write the features of the good ones; return their number."""
        if table is None:
            return 0
        columns = self._options.columns.users if entity == "user" else self._options.columns.items
        id_column = table.require(columns.id, f"{entity}s.id")
        total = 0
        for ids, features in read_entities(table, id_column, stored_features(table, entity, columns, self._schema)):
            if write and len(ids):
                write_entities(self._kv, entity, ids, features)
            total += len(ids)
        return total

    def history(self, impressions: TableFile | None, actions: TableFile | None) -> tuple[Requests | None, Actions]:
        """Return the requests and actions of the tables."""
        columns, requests, found = self._options.columns, None, [Actions.concat([])]
        if impressions is not None:
            requests, labelled = self._tables.requests(impressions, columns.impressions)
            found.append(labelled)
        if actions is not None:
            found.append(self._tables.actions(actions, columns.actions))
        return requests, Actions.concat(found)

    def writer(self, tables: Tables, requests: Requests | None, actions: Actions) -> HistoryWriter | None:
        """Return the writer of the history, its topics created; None if there is no history.

        Raises:
            ConfigError: a topic has records of the time of the history that an earlier run of this load has not written.
        """
        if not (requests and len(requests.times_ms)) and not len(actions):
            return None
        topics = (self._topics.impressions, self._topics.actions)
        for topic in topics:
            self._log.create_topic(topic, self._job.log.partitions)
        writer = HistoryWriter(self._log, self._kv, self._clock, self._name(tables), topics)
        if writer.state() == (0, False):
            self.check_order(requests, actions)
        return writer

    def check_order(self, requests: Requests | None, actions: Actions) -> None:
        """Check that the history is later than all records of its topics.

        Raises:
            ConfigError: it is not.
        """
        if requests and len(requests.times_ms):
            self._check_topic(self._topics.impressions, int(requests.times_ms[0]))
        if len(actions):
            self._check_topic(self._topics.actions, int(actions.times_ms[0]))

    def _check_topic(self, topic: str, first_ms: int) -> None:
        for partition in range(self._log.num_partitions(topic)):
            if self._log.offset_at(topic, partition, first_ms) < self._log.end_offset(topic, partition):
                raise ConfigError(
                    f"history must be later than all records of topic {topic!r}[{partition}], got records after {first_ms} ms: the joiner "
                    "puts history aside as late; load it with --prefix into topics of its own, then replay them"
                )

    def _name(self, tables: Tables) -> str:
        """Return the name of this history: a digest of its tables, columns and topics."""
        digest = hashlib.blake2b(digest_size=16)
        columns = self._options.columns
        digest.update(f"{self._job.name}|{self._topics}|{columns.impressions!r}|{columns.actions!r}|{self._options.skip_bad_rows}".encode())
        for path in (tables.impressions, tables.actions):
            if path is None:
                continue
            digest.update(b"|")
            try:
                with path.open("rb") as file:
                    while block := file.read(_BLOCK_BYTES):
                        digest.update(block)
            except OSError as error:
                raise ArchiveError(f"{path}: {error}") from error
        return digest.hexdigest()

    def impression_records(self, requests: Requests | None) -> Iterator[Timed]:
        """Yield the impressions as records."""
        for index in range(len(requests.request_ids) if requests else 0):
            assert requests is not None
            one = requests.impression(index, self._features)
            yield Timed(one.time_ms, self._topics.impressions, one.request_id, encode_impression(one))

    def action_records(self, actions: Actions) -> Iterator[Timed]:
        """Yield the actions as records."""
        for action in actions:
            yield Timed(action.time_ms, self._topics.actions, action.request_id, encode_action(action))

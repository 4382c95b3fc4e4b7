"""The Log seam: durable, partitioned, ordered streams of records, on SQLite or Kafka."""

from monolith_py.io.log.log import Log, Record, Writer, open_log

__all__ = ["Log", "Record", "Writer", "open_log"]

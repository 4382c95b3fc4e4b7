"""Seams to the outside: Log (streams), Kv (features, waiting requests) and the wire formats in both."""

from monolith_py.io.kv import Kv, MemoryKv, open_kv
from monolith_py.io.kv.sqlite import SqliteKv
from monolith_py.io.log import Log, Record, Writer, open_log
from monolith_py.io.log.memory import MemoryLog
from monolith_py.io.log.sqlite import SqliteLog

__all__ = ["Kv", "Log", "MemoryKv", "MemoryLog", "Record", "SqliteKv", "SqliteLog", "Writer", "open_kv", "open_log"]

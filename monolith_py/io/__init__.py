"""The seams to the outside: Log (streams) and Kv (features, waiting impressions), and the wire formats they carry."""

from monolith_py.io.kv import Kv, MemoryKv, open_kv
from monolith_py.io.log import Log, Record, open_log
from monolith_py.io.sqlite_kv import SqliteKv
from monolith_py.io.sqlite_log import SqliteLog

__all__ = ["Kv", "Log", "MemoryKv", "Record", "SqliteKv", "SqliteLog", "open_kv", "open_log"]

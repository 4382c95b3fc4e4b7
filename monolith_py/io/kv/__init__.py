"""The Kv seam: bytes by text key, in memory, SQLite or Redis."""

from monolith_py.io.kv.kv import Kv, MemoryKv, open_kv

__all__ = ["Kv", "MemoryKv", "open_kv"]

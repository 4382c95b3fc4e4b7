"""The Kv seam: a store of bytes by text key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol


class Kv(Protocol):
    """Bytes by key, in batches. All methods raise `KvError` when the store cannot be reached."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None where there is none."""
        ...

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Put and delete in one atomic, durable step."""
        ...

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield every (key, value) whose key starts with `prefix`, in no order."""
        ...

    def close(self) -> None:
        """Free connections and files."""
        ...

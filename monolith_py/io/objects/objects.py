"""The seam to object stores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from monolith_py.config import ObjectsConfig
from monolith_py.errors import ConfigError

_SCHEME = "s3://"


class ObjectInfo(NamedTuple):
    """Size in bytes and time of the last write, in nanoseconds; another value means another content."""

    size: int
    written_ns: int


class Objects(Protocol):
    """Objects by key. A written object is whole, or absent. All methods are safe for threads.

    Methods raise ObjectMissing for an object that is absent and ObjectError for a store that cannot be reached or refuses.
    """

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Return the objects whose key starts with `prefix`, "" or a key that ends with a slash."""
        ...

    def read(self, key: str) -> bytes:
        """Return the value of an object."""
        ...

    def write(self, key: str, value: bytes) -> None:
        """Write an object in place of the one of that key."""
        ...

    def upload(self, key: str, path: Path) -> None:
        """Write the content of a file as an object."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Write an object to the file at `path`."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; an absent one is skipped."""
        ...

    def delete_below(self, prefix: str) -> None:
        """Delete the objects whose key starts with `prefix`, a key that ends with a slash; also one that is written meanwhile."""
        ...


def is_object_url(location: str) -> bool:
    """Return whether a location of checkpoints is in an object store.

    >>> is_object_url("s3://bucket/shop"), is_object_url("/checkpoints/shop")
    (True, False)
    """
    return "://" in location


def open_objects(url: str, config: ObjectsConfig) -> Objects:
    """Return the objects below `url`, s3://BUCKET/PREFIX.

    Raises:
        ConfigError: the URL has another form.
    """
    bucket, _, prefix = url.removeprefix(_SCHEME).strip("/").partition("/")
    if not url.startswith(_SCHEME) or not bucket:
        raise ConfigError(f"url of objects must be s3://BUCKET/PREFIX, got {url!r}")
    from monolith_py.io.objects.s3 import S3Objects  # loads pyarrow

    return S3Objects(f"{bucket}/{prefix}".rstrip("/"), config)

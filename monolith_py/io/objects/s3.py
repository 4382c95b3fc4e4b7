"""Objects of an S3 API, by Arrow's client: it takes no GIL while it transfers, and splits large files into parts.

Credentials come from the environment as for every S3 client: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity, or the role of
the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow.fs import FileSelector, FileType, S3FileSystem

from monolith_py.config import ObjectsConfig
from monolith_py.errors import ConfigError, ObjectError, ObjectMissing
from monolith_py.io.objects.objects import ObjectInfo

_BLOCK_BYTES = 4 << 20
# Arrow's client tries a call three times within these limits, in seconds.
_CONNECT_S = 5.0
_REQUEST_S = 30.0
# Attempts to delete a folder: its files, the folders in it, itself.
_DELETIONS = 3


class S3Objects:
    """Objects in a bucket, below a prefix."""

    def __init__(self, root: str, config: ObjectsConfig) -> None:
        """Open the objects below `root`, BUCKET/PREFIX; nothing is read yet.

        Raises:
            ConfigError: the endpoint is no URL.
        """
        self._root, self._bucket = root, root.partition("/")[0]
        options: dict[str, object] = {}
        if config.endpoint:
            endpoint = urlsplit(config.endpoint)
            if endpoint.scheme not in ("http", "https") or not endpoint.netloc:
                raise ConfigError(f"objects.endpoint must be http://HOST:PORT or https://HOST, got {config.endpoint!r}")
            options = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        if config.region:
            options["region"] = config.region
        self._files = S3FileSystem(connect_timeout=_CONNECT_S, request_timeout=_REQUEST_S, allow_delayed_open=True, **options)

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Return the objects whose key starts with `prefix`."""
        place = f"{self._root}/{prefix}".rstrip("/")
        with self._errors(place):
            infos = self._files.get_file_info(FileSelector(place, recursive=True, allow_not_found=True))
            # Arrow lists a bucket that is absent as an empty one.
            if not infos and self._files.get_file_info(self._bucket).type is FileType.NotFound:
                raise ObjectError(f"{place}: bucket {self._bucket!r} must exist")
        skipped = len(self._root) + 1
        return {info.path[skipped:]: ObjectInfo(info.size, info.mtime_ns) for info in infos if info.type is FileType.File}

    def read(self, key: str) -> bytes:
        """Return the value of an object."""
        with self._errors(path := self._path(key)), self._files.open_input_stream(path) as stream:
            value: bytes = stream.read()
        return value

    def write(self, key: str, value: bytes) -> None:
        """Write an object in place of the one of that key."""
        with self._errors(path := self._path(key)), self._files.open_output_stream(path) as stream:
            stream.write(value)

    def upload(self, key: str, path: Path) -> None:
        """Write the content of a file as an object.

        Arrow also completes an upload that an error ends: the object is then short. So callers write a list of sizes last.
        """
        with path.open("rb") as source, self._errors(target := self._path(key)), self._files.open_output_stream(target) as stream:
            while block := source.read(_BLOCK_BYTES):
                stream.write(block)

    def download(self, key: str, path: Path) -> None:
        """Write an object to the file at `path`."""
        with self._errors(source := self._path(key)), self._files.open_input_stream(source) as stream, path.open("wb") as target:
            while block := stream.read(_BLOCK_BYTES):
                target.write(block)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; an absent one is skipped."""
        for key in keys:
            try:
                with self._errors(path := self._path(key)):
                    self._files.delete_file(path)
            except ObjectMissing:
                continue

    def delete_below(self, prefix: str) -> None:
        """Delete the objects whose key starts with `prefix`.

        `delete` lets Arrow put an empty object in place of each folder, so that it stays when its last object is gone; this deletes those
        as well, and leaves one for the folder above. A server on a file system may refuse a folder whose files go in the same call.
        """
        path = self._path(prefix.rstrip("/"))
        with suppress(ObjectMissing):
            for _ in range(_DELETIONS):
                try:
                    with self._errors(path):
                        self._files.delete_dir(path)
                    return
                except ObjectMissing:
                    raise
                except ObjectError as refused:
                    error = refused
            raise error

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(f"{path}: is absent: {error}") from None
        except OSError as error:
            raise ObjectError(f"{path}: {error}") from None

"""An object store whose connection is cut after some writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from monolith_py.errors import ObjectError
from monolith_py.io.objects import FolderObjects, ObjectInfo


class CutObjects:
    """Objects whose store is away after `left` writes; the last one is short, as Arrow completes an upload that is cut off."""

    def __init__(self, root: Path, left: int = 1_000_000) -> None:
        self._objects, self.left = FolderObjects(root), left

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        return self._objects.list(prefix)

    def read(self, key: str) -> bytes:
        return self._objects.read(key)

    def write(self, key: str, value: bytes) -> None:
        self._spend(key, value)
        self._objects.write(key, value)

    def upload(self, key: str, path: Path) -> None:
        self._spend(key, path.read_bytes())
        self._objects.upload(key, path)

    def download(self, key: str, path: Path) -> None:
        self._objects.download(key, path)

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._spend(key, None)
            self._objects.delete([key])

    def delete_below(self, prefix: str) -> None:
        self.delete(self._objects.list(prefix))

    def _spend(self, key: str, value: bytes | None) -> None:
        self.left -= 1
        if self.left == 0 and value is not None and not key.endswith("manifest.json"):
            self._objects.write(key, value[: len(value) // 2])
        if self.left <= 0:
            raise ObjectError(f"{key}: connection lost")

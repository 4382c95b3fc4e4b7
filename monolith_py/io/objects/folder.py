"""Objects as files of a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from monolith_py.errors import ObjectError, ObjectMissing
from monolith_py.io.objects.objects import ObjectInfo

# Begins the name of a file until it is whole, and of a folder that is being deleted.
_UNFINISHED = ".unfinished-"
# Attempts of a write or deletion in a folder that others delete or write to at the same moment.
_ATTEMPTS = 1000


class FolderObjects:
    """Objects as files below a folder, which is made by the first write.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     objects = FolderObjects(Path(folder))
    ...     objects.write("a/b", b"value")
    ...     list(objects.list("a/")), objects.read("a/b")
    (['a/b'], b'value')
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Return the objects whose key starts with `prefix`."""
        found = {}
        for folder, folders, names in os.walk(self._root / prefix):
            folders[:] = [name for name in folders if not name.startswith(_UNFINISHED)]
            for name in names:
                path = Path(folder, name)
                try:
                    status = path.stat()
                except FileNotFoundError:  # deleted meanwhile
                    continue
                if not name.startswith(_UNFINISHED):
                    found[path.relative_to(self._root).as_posix()] = ObjectInfo(status.st_size, status.st_mtime_ns)
        return found

    def read(self, key: str) -> bytes:
        """Return the value of an object."""
        try:
            return (self._root / key).read_bytes()
        except OSError as error:
            raise _of(error, self._root / key) from None

    def write(self, key: str, value: bytes) -> None:
        """Write an object in place of the one of that key."""
        self._put(key, lambda path: path.write_bytes(value))

    def upload(self, key: str, path: Path) -> None:
        """Write the content of a file as an object."""
        self._put(key, lambda target: shutil.copyfile(path, target))

    def download(self, key: str, path: Path) -> None:
        """Write an object to the file at `path`."""
        try:
            shutil.copyfile(self._root / key, path)
        except OSError as error:
            raise _of(error, self._root / key) from None

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and folders that are empty then."""
        for key in keys:
            path = self._root / key
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _of(error, path) from None
            self._delete_empty(path.parent)

    def delete_below(self, prefix: str) -> None:
        """Delete the objects whose key starts with `prefix`, and their folder."""
        folder = self._root / prefix
        hidden = folder.with_name(f"{_UNFINISHED}{folder.name}-{secrets.token_hex(4)}")
        try:
            folder.rename(hidden)  # whoever writes meanwhile makes the folder again
            _delete_tree(hidden)
        except FileNotFoundError:  # there is none, or another process has deleted it
            pass
        except OSError as error:
            raise _of(error, folder) from None
        self._delete_empty(folder.parent)

    def _delete_empty(self, folder: Path) -> None:
        """Delete folders below the root that are empty, from `folder` upwards."""
        with contextlib.suppress(OSError):  # it has files, or another process has deleted it
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    def _put(self, key: str, write: Callable[[Path], object]) -> None:
        path = self._root / key
        unfinished = self._root / f"{_UNFINISHED}{path.name}-{secrets.token_hex(4)}"  # in no folder that others delete
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            write(unfinished)
            _place(unfinished, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise _of(error, path) from None


def _place(file: Path, path: Path) -> None:
    """Rename a file to `path`, whose folder others may delete as often as it is made."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file.replace(path)
        except (FileNotFoundError, FileExistsError):  # the folder went while it was made
            if attempt == _ATTEMPTS:
                raise
        else:
            return


def _delete_tree(folder: Path) -> None:
    """Delete a folder that has just got this name: who was opening a file by the former one may still put it in, once each."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or attempt == _ATTEMPTS:
                raise
        else:
            return


def _of(error: OSError, path: Path) -> ObjectError:
    kind = ObjectMissing if isinstance(error, FileNotFoundError) else ObjectError
    return kind(f"{path}: {error.strerror}")

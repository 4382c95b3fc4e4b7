"""Keys of checkpoints in an object store, as `object_store` describes them."""

from __future__ import annotations

from collections.abc import Iterable

from monolith_py.training.checkpoint.layout import ASIDE, CHANNELS

MANIFEST = "manifest.json"


def is_manifest(key: str) -> bool:
    """Return whether the object at `key` is the manifest of a checkpoint.

    >>> is_manifest("step-000000000001/manifest.json"), is_manifest("channels/stable/step-000000000001/manifest.json")
    (True, True)
    """
    *folders, name, file = ["", *key.split("/")]
    home = folders[1:]
    is_home = not home or home == [ASIDE] or (len(home) == 2 and home[0] == CHANNELS)
    return is_home and name.startswith("step-") and file == MANIFEST


def name_of(key: str) -> str:
    """Return the name of the checkpoint whose manifest is at `key`."""
    return key.split("/")[-2]


def names_elsewhere(manifests: Iterable[str]) -> set[str]:
    """Return the names of the checkpoints put aside and in channels."""
    return {name_of(key) for key in manifests if not key.startswith("step-")}


def names_without_manifest(keys: Iterable[str]) -> set[str]:
    """Return the names of the folders of files that no manifest names."""
    known, folders = set(), set()
    for key in keys:
        if is_manifest(key):
            known.add(name_of(key))
        elif key.startswith("step-"):
            folders.add(key.partition("/")[0])
    return folders - known

"""Batch refresh of a replica: it gets the trainer's newest checkpoint as a copy in a folder of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from monolith_py.training import Checkpoint


def copy_newest(source: Path, target: Path) -> Checkpoint | None:
    """Copy the newest intact checkpoint of `source` into `target`, delete those before it there, and return it; None if there is none new.

    Files are hard links where the file system has them. The copy gets its name once it is whole, so that a replica never sees a part.
    """
    newest = Checkpoint.newest(source)
    if newest is None or (target / newest.path.name).exists():
        return None
    before = Checkpoint.all_in(target)
    target.mkdir(parents=True, exist_ok=True)
    staging = target / f".copy-{newest.path.name}"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(newest.path, staging, copy_function=_link)
    staging.rename(target / newest.path.name)
    for old in before[1:]:  # the newest of them may be loading
        shutil.rmtree(old.path)
    return Checkpoint(target / newest.path.name)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target

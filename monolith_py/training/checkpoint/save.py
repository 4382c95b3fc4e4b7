"""Saving of checkpoints: written beside their name while training goes on, synced to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from monolith_py.errors import CheckpointError, ModelNotFinite, ObjectError
from monolith_py.table import TableSaving, pack_snapshot
from monolith_py.training.checkpoint.increments import IncrementChain, link_tables, next_part
from monolith_py.training.checkpoint.layout import Arrays, Checkpoint, Part
from monolith_py.training.checkpoint.meta import CheckpointMeta, ModelMeta
from monolith_py.training.checkpoint.store import CheckpointStore, Retention
from monolith_py.training.trainer import Trainer

# Tables copied first change while the others are copied; after a few rounds little is left for `freeze`.
_MAX_ROUNDS = 8


class CheckpointSaving:
    """A checkpoint that is written while training goes on.

    1. A thread copies the tables shard by shard, then their changes, until few rows are left: `is_copied`.
    2. `freeze`, between two steps, copies these rows, the dense parameters and the optimizer state in memory. The checkpoint holds
       the state of this moment.
    3. The thread packs the rows for replicas, syncs everything to the disk, renames the folder and publishes it: `is_written`. `wait`
       returns the checkpoint.
    """

    def __init__(self, store: CheckpointStore, trainer: Trainer, retention: Retention, chain: IncrementChain | None = None) -> None:
        """Start step 1; step 3 deletes the checkpoints in `store` that `retention` does not keep. Only one saving may write there.

        With a `chain` the checkpoint may be an increment on the one before.

        Raises:
            CheckpointError: the folder of `store` cannot be written.
        """
        self._store, self._trainer, self._retention = store, trainer, retention
        self._chain = chain or IncrementChain(full_interval=1)
        self._parent = self._chain.parent()
        self._linked: set[str] = set()
        self._temporary = Checkpoint(store.directory / ".saving.tmp")
        self._tables: list[TableSaving] = []
        try:
            shutil.rmtree(self._temporary.path, ignore_errors=True)
            self._temporary.tables.mkdir(parents=True)
            self._temporary.serving.mkdir()
        except OSError as error:
            raise CheckpointError(f"{self._temporary}: {error}") from None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._copied: Future[None] = self._worker.submit(self._copy)
        self._written: Future[Checkpoint] | None = None

    @property
    def is_copied(self) -> bool:
        """Return whether step 1 is done, so that `freeze` takes little time."""
        return self._copied.done()

    @property
    def is_frozen(self) -> bool:
        """Return whether `freeze` was called."""
        return self._written is not None

    @property
    def is_written(self) -> bool:
        """Return whether step 3 is done, so that `wait` returns at once."""
        return self._written is not None and self._written.done()

    def freeze(self, meta: CheckpointMeta) -> None:
        """Fix the state to be saved, described by `meta`. The trainer must not step until this returns.

        Raises:
            CheckpointError: the tables cannot be written.
            ModelNotFinite: a dense parameter is NaN or infinite: no replica takes such a model, and no trainer could go on from it.
        """
        dense = {name: value.numpy() for name, value in self._trainer.export_dense().items()}
        try:
            self._copied.result()
            _check_finite(dense)
            for table in self._tables:
                table.finish()
        except BaseException:
            self._worker.shutdown()
            self._cancel()
            raise
        optimizer = {name: value.clone().numpy() for name, value in self._trainer.optimizer.state().items()}
        self._written = self._worker.submit(self._write, meta, dense, {"rng": torch.get_rng_state().numpy()} | optimizer)

    def wait(self) -> Checkpoint:
        """Return the checkpoint once it is complete and on the disk.

        Raises:
            CheckpointError: it cannot be written; earlier checkpoints are unchanged.
        """
        assert self._written is not None
        try:
            return self._written.result()
        finally:
            self._worker.shutdown()

    def _cancel(self) -> None:
        for table in self._tables:
            table.cancel()
        shutil.rmtree(self._temporary.path, ignore_errors=True)

    def _copy(self) -> None:
        bags, temporary, parent = self._trainer.bags, self._temporary, self._parent
        if parent is None:
            self._tables = bags.start_saving(temporary.tables)
        else:
            self._linked = link_tables(parent, temporary, bags.tables)
            self._tables = bags.start_increments({name: next_part(temporary.table(name)) for name in bags.tables})
        for _ in range(_MAX_ROUNDS):
            num_copied = 0
            for table in self._tables:
                while table.copy():
                    num_copied += 1
            if num_copied == 0:
                break

    def _write(self, meta: CheckpointMeta, dense: Arrays, optimizer: Arrays) -> Checkpoint:
        directory, temporary = self._store.directory, self._temporary
        checkpoint = Checkpoint.at(directory, meta.step)
        try:
            checkpoint = self._store.next_at(meta.step)
            for name, table in zip(self._trainer.bags.tables, self._tables, strict=True):
                table.commit(track=self._chain.tracks)
                if self._parent is None:
                    pack_snapshot(temporary.table(name), temporary.packed(name))
            for name, owner in self._trainer.bags.sharing.items():
                _link_shared(temporary, name, owner)
            files = self._parent.files_of(Part.ALL) if self._parent else {}
            known = {name: files[name] for name in self._linked}
            temporary.write(meta, ModelMeta(self._trainer.layout, self._trainer.settings), dense, optimizer, known)
            for file in [*temporary.files(), temporary.tables, temporary.serving, temporary.path]:
                _sync(file)
            temporary.path.rename(checkpoint.path)
            _sync(directory)
        except (OSError, CheckpointError, ObjectError) as error:
            self._cancel()
            raise error if isinstance(error, CheckpointError) else CheckpointError(f"{checkpoint}: {error}") from None
        self._chain.note(checkpoint)
        self._store.publish(checkpoint)
        self._store.prune(self._retention, checkpoint)
        return checkpoint


def save_checkpoint(directory: Path, trainer: Trainer, meta: CheckpointMeta, *, keep: int) -> Checkpoint:
    """Write a checkpoint, delete all in `directory` but the newest `keep`, and return it.

    Raises:
        CheckpointError: it cannot be written; earlier checkpoints are unchanged.
    """
    saving = CheckpointSaving(CheckpointStore(directory), trainer, Retention(keep))
    saving.freeze(meta)
    return saving.wait()


def _check_finite(dense: Arrays) -> None:
    broken = sorted(name for name, array in dense.items() if not np.isfinite(array).all())
    if broken:
        raise ModelNotFinite(f"dense parameters must be finite, got NaN or infinity in {broken}: the checkpoint before stays the newest")


def _link_shared(checkpoint: Checkpoint, name: str, owner: str) -> None:
    """Give a feature that shares a table the files of its own that readers of the checkpoint look for."""
    pairs = [(part, checkpoint.tables / part.name.replace(owner, name, 1)) for part in checkpoint.table_parts(owner)]
    if checkpoint.packed(owner).exists():
        pairs.append((checkpoint.packed(owner), checkpoint.packed(name)))
    for source, target in pairs:
        os.link(source, target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

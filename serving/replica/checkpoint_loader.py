"""Loads checkpoints of the trainer as model states."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.layout import Layout
from monolith_py.data.schema import Schema
from monolith_py.errors import CheckpointError, CheckpointVersion, ModelNotFinite, ObjectError, WireError
from monolith_py.sync import DenseState, RowEncoding, digest_tables, pack_rows
from monolith_py.table import EmbeddingTable, PackedFile
from monolith_py.training import Checkpoint, CheckpointStore, Part, open_checkpoints
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.device import Device
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.table import ReplicaTable, runs_core

_logger = logging.getLogger(__name__)

# Rows packed and assigned in one call.
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint as the replica uses it."""

    checkpoint: Checkpoint
    state: ModelState
    updates_offset: int  # offset in `updates` of the first delta that is not in `state`


class _Damaged(CheckpointError):
    """Files of a checkpoint are absent, torn or damaged: another part of it, or an older one, may be intact."""


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except CheckpointVersion:  # not damaged: to pass it over would lose what it holds
        raise
    except CheckpointError as error:
        raise _Damaged(str(error)) from None


class CheckpointLoader:
    """Loads each newest checkpoint of a job once."""

    def __init__(self, job: JobConfig, device: Device, clock: Clock, allows: Callable[[int], bool] | None = None) -> None:
        """`allows` tells whether a checkpoint with the updates before an offset may serve; None allows all."""
        self._job, self._device = job, device
        self._schema, self._allows = Schema.of(job), allows
        self._clock = clock
        self._store: CheckpointStore | None = None  # opened by the first load
        self._loaded: tuple[Checkpoint, int] | None = None  # and when it was saved
        self._is_reload = False  # another model serves meanwhile
        self._refusal = ""  # logged last
        self._damaged: set[str] = set()  # of the last look

    def load_newest(self) -> LoadedCheckpoint | None:
        """Return the newest intact checkpoint; None if there is none, it cannot be read, or it is the one returned last."""
        try:
            loaded = self._newest()
        except (CheckpointError, ObjectError) as error:
            if str(error) != self._refusal:  # a job that has changed may wait long for a checkpoint of its own
                _logger.warning("checkpoint not loaded, will try again: %s", error)
            self._refusal = str(error)
            return None
        self._refusal = ""
        if loaded is not None:
            self._loaded, self._is_reload = (loaded.checkpoint, loaded.checkpoint.meta.saved_ms), True
        return loaded

    def forget(self) -> None:
        """Allow the checkpoint returned last again."""
        self._loaded = None

    def _newest(self) -> LoadedCheckpoint | None:
        """Load the newest intact checkpoint; None if there is none or it is the one loaded last.

        Raises:
            CheckpointError: it is of another job or format, or does not fit the model.
            ObjectError: the object store cannot be reached.
        """
        damaged: dict[Checkpoint, set[str]] = defaultdict(set)
        loaded = None
        if self._store is None:
            self._store = open_checkpoints(self._job, "replica", self._clock, self._job.serving.channel)
        for checkpoint in self._store.all():
            try:
                if not self._may_serve(checkpoint):
                    continue
                if self._is_loaded(checkpoint):
                    break
                loaded = self._read(checkpoint, self._store, damaged[checkpoint])
            except _Damaged as error:
                damaged[checkpoint].add(str(error))
            if loaded is not None:
                break
        self._report(damaged, self._store)
        return loaded

    def _read(self, checkpoint: Checkpoint, store: CheckpointStore, damaged: set[str]) -> LoadedCheckpoint | None:
        """Load one checkpoint under a lease; None if it is being deleted, as newer ones are there, or not good."""
        with ExitStack() as stack:
            try:
                stack.enter_context(store.reading(checkpoint))
            except CheckpointError as error:
                _logger.info("checkpoint passed over: %s", error)
                return None
            return self._load(checkpoint, store, damaged)

    def _report(self, damaged: Mapping[Checkpoint, set[str]], store: CheckpointStore) -> None:
        """Log what is damaged, once and not at every look. What was deleted since it was listed is no fault."""
        faults = {text for texts in damaged.values() for text in texts}
        present = store.all() if faults - self._damaged else []
        for checkpoint, texts in damaged.items():
            for text in sorted(texts - self._damaged):
                if checkpoint in present:
                    _logger.error("checkpoint refused: %s", text)
                else:
                    _logger.info("checkpoint deleted before it was read: %s", text)
        self._damaged = faults

    def _may_serve(self, checkpoint: Checkpoint) -> bool:
        with _damage():
            return self._allows is None or self._allows(checkpoint.meta.updates_offset)

    def _is_loaded(self, checkpoint: Checkpoint) -> bool:
        with _damage():
            return self._loaded is not None and self._loaded[0] == checkpoint and self._loaded[1] == checkpoint.meta.saved_ms

    def _load(self, checkpoint: Checkpoint, store: CheckpointStore, damaged: set[str]) -> LoadedCheckpoint | None:
        """Load one checkpoint: its packed rows, or the tables if these are damaged or in another encoding. None: none is good.

        Raises:
            CheckpointError: it is of another job or format, or does not fit the model.
        """
        with _damage():
            parts = (Part.SERVING, Part.TRAINING) if checkpoint.has_packed(self._schema.sparse_names) else (Part.TRAINING,)
        for part in parts:
            try:
                with _damage():
                    store.fetch(checkpoint, part)
                    checkpoint.verify(part)
                model, dense = self._model(checkpoint)
                with _damage():
                    table = self._packed_rows(checkpoint) if part is Part.SERVING else self._table_rows(checkpoint)
            except _Damaged as error:
                damaged.add(str(error))
                continue
            except ModelNotFinite as error:  # no model can score by it, maybe by an older one
                damaged.add(f"{checkpoint}: {error}")
                continue
            except (ValueError, WireError) as error:
                raise CheckpointError(f"{checkpoint}: {error}") from None
            if table is not None:
                meta = checkpoint.meta
                state = ModelState(table, model, dense, (meta.generation, meta.next_seq), meta.saved_ms)
                return LoadedCheckpoint(checkpoint, state, meta.updates_offset)
        return None

    def _model(self, checkpoint: Checkpoint) -> tuple[DenseModel, DenseState]:
        """Return the model of a verified checkpoint.

        Raises:
            CheckpointError: it is of another job.
            ModelNotFinite: a weight is NaN or infinite.
        """
        meta = checkpoint.meta
        if meta.job != self._job.name:
            raise CheckpointError(f"{checkpoint}: job must be {self._job.name!r}, got {meta.job!r}")
        layout = Layout.of(self._job)
        if difference := layout.difference(checkpoint.model.layout):
            raise CheckpointError(f"{checkpoint}: is of a job with another layout: {difference}")
        dense = DenseState.of(checkpoint.dense(), layout.identity(meta.model_id))
        for name in dense.shapes:
            if not np.isfinite(dense.tensors[name]).all():
                raise ModelNotFinite(f"dense.{name} must be finite, got NaN or infinity")
        in_core = runs_core(self._job.serving.engine, self._device)
        return DenseModel(self._schema, self._job.model, dense, None if in_core else self._device), dense

    def _packed_rows(self, checkpoint: Checkpoint) -> ReplicaTable | None:
        """Return the packed rows; None if they are in another encoding.

        Raises:
            CheckpointError: they are damaged.
        """
        table = self._empty_table()
        digests = {}
        for name in self._schema.sparse_names:
            file = PackedFile(checkpoint.packed(name))
            encoding = table.encodings[name]
            if file.encoding != encoding.value:
                rule = "%s: rows of %s must be packed in %s, got %s: loading tables"
                _logger.info(rule, checkpoint, name, encoding.value, file.encoding)
                return None
            for fids, rows in file.chunks():
                table.insert_all(name, fids, rows, encoding, in_background=self._is_reload)
            digests[name] = file.digest
        if table.digest != (expected := digest_tables(digests)):
            raise CheckpointError(f"{checkpoint}: digest of the packed rows must be {expected:016x}, got {table.digest:016x}")
        return table

    def _table_rows(self, checkpoint: Checkpoint) -> ReplicaTable:
        """Return the rows of the trainer's tables."""
        table = self._empty_table()
        for name in self._schema.sparse_names:
            # This restores the optimizer state and the admission counts too, only to drop them: the peak is one table with its state.
            fids, weights = EmbeddingTable.restore(*checkpoint.table_parts(name)).export_rows()
            for start in range(0, len(fids), _ROWS_AT_ONCE):
                chunk = slice(start, start + _ROWS_AT_ONCE)
                rows = pack_rows(weights[chunk], table.encodings[name])
                table.insert_all(name, fids[chunk], rows, table.encodings[name], in_background=self._is_reload)
        return table

    def _empty_table(self) -> ReplicaTable:
        return ReplicaTable(self._schema.features, RowEncoding(self._job.sync.encoding), self._device, engine=self._job.serving.engine)

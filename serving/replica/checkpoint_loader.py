"""Loads checkpoints of the trainer as model states."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from monolith_py.config import JobConfig
from monolith_py.data.layout import Layout
from monolith_py.data.schema import Schema
from monolith_py.errors import CheckpointError, ModelNotFinite, WireError
from monolith_py.model import build_model
from monolith_py.sync import DenseState, RowEncoding, pack_rows
from monolith_py.table import EmbeddingTable
from monolith_py.training import Checkpoint
from monolith_serving.replica.model_state import ModelState, with_weights
from monolith_serving.replica.table import ReplicaTable

_logger = logging.getLogger(__name__)

# Rows packed and assigned in one call.
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint as the replica uses it."""

    checkpoint: Checkpoint
    state: ModelState
    updates_offset: int  # offset in `updates` of the first delta that is not in `state`


class CheckpointLoader:
    """Loads each newest checkpoint of a job once."""

    def __init__(self, job: JobConfig, device: torch.device) -> None:
        self._job, self._device = job, device
        self._schema = Schema.of(job)
        self._directory = Path(job.trainer.checkpoint_dir)
        self._loaded: tuple[Checkpoint, int] | None = None  # and when it was saved
        self._refusal = ""  # logged last
        self._damaged: set[str] = set()  # of the last look

    def load_newest(self) -> LoadedCheckpoint | None:
        """Return the newest intact checkpoint; None if there is none, it cannot be read, or it is the one returned last."""
        try:
            checkpoint = self._newest()
            if checkpoint is None:
                return None
            loaded = LoadedCheckpoint(checkpoint, self._restore(checkpoint), checkpoint.meta.updates_offset)
        except CheckpointError as error:
            if str(error) != self._refusal:  # a job that has changed may wait long for a checkpoint of its own
                _logger.warning("checkpoint not loaded, will try again: %s", error)
            self._refusal = str(error)
            return None
        self._refusal = ""
        self._loaded = (checkpoint, checkpoint.meta.saved_ms)
        return loaded

    def _newest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, None if there is none or it is the one loaded last."""
        newest = next(iter(Checkpoint.all_in(self._directory)), None)
        if newest is None or self._is_loaded(newest):
            return None  # skips `Checkpoint.newest_intact`, which reads whole files to verify them
        intact, refused = Checkpoint.newest_intact(self._directory)
        damaged = {str(error) for error in refused}
        for text in sorted(damaged - self._damaged):  # once, not at every look
            _logger.error("checkpoint refused: %s", text)
        self._damaged = damaged
        return None if intact is None or self._is_loaded(intact) else intact

    def _is_loaded(self, checkpoint: Checkpoint) -> bool:
        return self._loaded is not None and self._loaded == (checkpoint, checkpoint.meta.saved_ms)

    def _restore(self, checkpoint: Checkpoint) -> ModelState:
        """Return the state of the checkpoint.

        Raises:
            CheckpointError: it is damaged, of another job, or does not fit the model.
        """
        meta = checkpoint.meta
        if meta.job != self._job.name:
            raise CheckpointError(f"{checkpoint}: job must be {self._job.name!r}, got {meta.job!r}")
        layout = Layout.of(self._job)
        if difference := layout.difference(checkpoint.model.layout):
            raise CheckpointError(f"{checkpoint}: is of a job with another layout: {difference}")
        encoding = RowEncoding(self._job.sync.encoding)
        table = ReplicaTable(self._schema.features, encoding, self._device, engine=self._job.serving.engine)
        model = build_model(self._schema, self._job.model, self._job.seed).to(self._device)
        try:
            for name in self._schema.sparse_names:
                # This restores the optimizer state and the admission counts too, only to drop them: the peak is one table with its state.
                fids, weights = EmbeddingTable.restore(checkpoint.table(name)).export_rows()
                for start in range(0, len(fids), _ROWS_AT_ONCE):
                    chunk = slice(start, start + _ROWS_AT_ONCE)
                    table.assign(name, fids[chunk], pack_rows(weights[chunk], encoding), encoding)
            dense = DenseState.of(checkpoint.dense(), layout.identity(meta.model_id))
            model = with_weights(model, dense.tensors)
        except (ValueError, WireError, ModelNotFinite) as error:
            raise CheckpointError(f"{checkpoint}: {error}") from None
        return ModelState(table, model, dense, (meta.generation, meta.next_seq), meta.saved_ms)

"""Description of a checkpoint: state of the training, source of its examples, settings of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from monolith_py.data.layout import Layout
from monolith_py.data.steps import JoinerStep
from monolith_py.training.quality import Quality


@dataclass(frozen=True)
class SourceMeta:
    """Backfill of a trainer, or a start inside the job's examples."""

    name: str  # options of the trainer that began it
    topic: str  # of the backfill
    offsets: dict[int, tuple[int, int]]  # partition of `topic` -> (offset, row) of the next example
    live_from_ms: int  # event time from which on the job's examples are learnt
    is_done: bool  # whether the trainer has gone on to the job's examples

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> SourceMeta:
        """Return the source of a JSON document."""
        return SourceMeta(**{**document, "offsets": partition_offsets(document["offsets"])})


@dataclass(frozen=True)
class CheckpointMeta:
    """State of the training at the moment of a checkpoint."""

    job: str
    step: int  # batches learnt
    examples_trained: int
    generation: int  # of the trainer that wrote it
    next_seq: int  # of the next delta of that generation
    updates_offset: int  # offset in `updates` after the last delta that this checkpoint holds
    offsets: dict[int, tuple[int, int]]  # partition of `examples` -> (offset, row) of the next example
    watermark_ms: int  # event time
    saved_ms: int  # wall clock
    quality: tuple[Quality, ...] = ()  # of the last predictions of each task; none in older checkpoints
    steps: dict[int, JoinerStep] = field(default_factory=dict)  # partition of `examples` -> last step before its offset
    examples_topic: str = ""  # id of the topic whose offsets these are; none in older checkpoints
    model_id: str = ""  # of the model since its tables were last started anew: no replica mixes two
    source: SourceMeta | None = None  # None: the job's examples from their start
    parent: str = ""  # "generation.seq" of the checkpoint from which the generation started; "" for a new model
    digest: str = ""  # of rows and dense parameters, `monolith_py.sync.ModelDigest`; "" before the first update
    imported: dict[str, str] = field(default_factory=dict)  # feature -> mark of the file whose rows were imported
    forget_offset: int = 0  # offset in `forget_requests` up to which rows were removed

    def document(self) -> dict[str, Any]:
        """Return the meta as a JSON document."""
        return {**asdict(self), "quality": [quality.document() for quality in self.quality]}


@dataclass(frozen=True)
class ModelMeta:
    """Settings and layout of the model in a checkpoint. Settings are plain values: those of another release need not load any more."""

    layout: Layout
    settings: Mapping[str, Any]  # sections seed, features, tasks, model and optimizer of the job


def partition_offsets(document: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """Return partition -> (offset, row)."""
    return {int(partition): (int(offset), int(row)) for partition, (offset, row) in document.items()}

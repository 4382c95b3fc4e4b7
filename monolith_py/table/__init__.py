"""Embedding tables, and the torch module of pooled look-ups in them."""

from typing import TYPE_CHECKING

from monolith_py.lazy import lazy_exports
from monolith_py.table.admission import Admission, MemoryBudget
from monolith_py.table.embedding_table import NO_ROW, EmbeddingTable
from monolith_py.table.feature import Feature
from monolith_py.table.optimizers import (
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    AmsGrad,
    Ftrl,
    GroupAdagrad,
    GroupFtrl,
    Momentum,
    Optimizer,
    RmsProp,
    RowwiseAdagrad,
    Sgd,
    optimizer_from,
)
from monolith_py.table.packed_file import PackedFile, pack_snapshot, packed_file
from monolith_py.table.saving import TableSaving, table_file
from monolith_py.table.schedules import CosineDecay, PolynomialDecay, Schedule, StepDecay, Warmup
from monolith_py.table.slices import Encoding, Initializer, Slice
from monolith_py.table.table_settings import SliceSettings, TableSettings, read_settings
from monolith_py.table.views import EncodedDelta, Entries, TableDelta, TableStats

if TYPE_CHECKING:
    from monolith_py.table.bags import EmbeddingBags
    from monolith_py.table.collection import EmbeddingCollection
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "EmbeddingBags": "monolith_py.table.bags",
            "EmbeddingCollection": "monolith_py.table.collection",
        },
    )

__all__ = [
    "NO_ROW",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Admission",
    "AmsGrad",
    "CosineDecay",
    "EmbeddingBags",
    "EmbeddingCollection",
    "EmbeddingTable",
    "EncodedDelta",
    "Encoding",
    "Entries",
    "Feature",
    "Ftrl",
    "GroupAdagrad",
    "GroupFtrl",
    "Initializer",
    "MemoryBudget",
    "Momentum",
    "Optimizer",
    "PackedFile",
    "PolynomialDecay",
    "RmsProp",
    "RowwiseAdagrad",
    "Schedule",
    "Sgd",
    "Slice",
    "SliceSettings",
    "StepDecay",
    "TableDelta",
    "TableSaving",
    "TableSettings",
    "TableStats",
    "Warmup",
    "optimizer_from",
    "pack_snapshot",
    "packed_file",
    "read_settings",
    "table_file",
]

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
from monolith_py.table.saving import TableSaving, table_file, table_parts
from monolith_py.table.schedules import CosineDecay, PolynomialDecay, Schedule, StepDecay, Warmup
from monolith_py.table.slices import Encoding, Initializer, Slice
from monolith_py.table.table_settings import SliceSettings, TableSettings, read_settings
from monolith_py.table.views import EncodedDelta, Entries, SliceForm, TableDelta, TableRows, TableStats

if TYPE_CHECKING:
    from monolith_py.table.bags import EmbeddingBags
    from monolith_py.table.rows_file import read_rows, write_rows
    from monolith_py.table.trained_weights import assign_weights, warm_start
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "EmbeddingBags": "monolith_py.table.bags",
            "assign_weights": "monolith_py.table.trained_weights",
            "read_rows": "monolith_py.table.rows_file",
            "warm_start": "monolith_py.table.trained_weights",
            "write_rows": "monolith_py.table.rows_file",
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
    "SliceForm",
    "SliceSettings",
    "StepDecay",
    "TableDelta",
    "TableRows",
    "TableSaving",
    "TableSettings",
    "TableStats",
    "Warmup",
    "assign_weights",
    "optimizer_from",
    "pack_snapshot",
    "packed_file",
    "read_rows",
    "read_settings",
    "table_file",
    "table_parts",
    "warm_start",
    "write_rows",
]

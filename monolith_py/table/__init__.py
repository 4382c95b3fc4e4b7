"""Embedding tables and the torch module that looks rows up and updates them."""

from monolith_py.table.bags import EmbeddingBags, Feature
from monolith_py.table.embedding_table import NO_ROW, EmbeddingTable, TableDelta, TableStats
from monolith_py.table.optimizers import Adagrad, Adam, Ftrl, Optimizer, RowwiseAdagrad, Sgd, optimizer_from

__all__ = [
    "NO_ROW",
    "Adagrad",
    "Adam",
    "EmbeddingBags",
    "EmbeddingTable",
    "Feature",
    "Ftrl",
    "Optimizer",
    "RowwiseAdagrad",
    "Sgd",
    "TableDelta",
    "TableStats",
    "optimizer_from",
]

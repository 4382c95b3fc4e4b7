"""The towers: what is dense of a model, and how it is sparse."""

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.layers.compact import CompactTower
from monolith_py.tower.layers.sparse_linear import SparseLinear
from monolith_py.tower.optimizer import AtomOptimizer, AtomRule, ParameterOptimizer
from monolith_py.tower.rule.updater import TopologyUpdater
from monolith_py.tower.tower import Tower

__all__ = ["AtomOptimizer", "AtomRule", "CompactTower", "ParameterOptimizer", "SparseLinear", "SparsityConfig", "TopologyUpdater", "Tower"]

"""Towers of a model: dense or sparse layers, their optimizer, the rule that updates their topology."""

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.layers.compact import CompactTower
from monolith_py.tower.layers.sparse_linear import SparseLinear
from monolith_py.tower.optimizer import AtomOptimizer, AtomRule, ParameterOptimizer
from monolith_py.tower.rule.updater import TopologyUpdater
from monolith_py.tower.tower import Tower

__all__ = ["AtomOptimizer", "AtomRule", "CompactTower", "ParameterOptimizer", "SparseLinear", "SparsityConfig", "TopologyUpdater", "Tower"]

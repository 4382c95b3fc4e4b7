"""Towers of a model: dense or sparse layers, their optimizer, the rule that updates their topology."""

from typing import TYPE_CHECKING

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.lazy import lazy_exports

if TYPE_CHECKING:
    from monolith_py.tower.layers.compact import CompactTower
    from monolith_py.tower.layers.sparse_linear import SparseLinear
    from monolith_py.tower.optimizer import AtomOptimizer, AtomRule, ParameterOptimizer
    from monolith_py.tower.rule.updater import TopologyUpdater
    from monolith_py.tower.tower import Tower
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "AtomOptimizer": "monolith_py.tower.optimizer",
            "AtomRule": "monolith_py.tower.optimizer",
            "CompactTower": "monolith_py.tower.layers.compact",
            "ParameterOptimizer": "monolith_py.tower.optimizer",
            "SparseLinear": "monolith_py.tower.layers.sparse_linear",
            "TopologyUpdater": "monolith_py.tower.rule.updater",
            "Tower": "monolith_py.tower.tower",
        },
    )

__all__ = ["AtomOptimizer", "AtomRule", "CompactTower", "ParameterOptimizer", "SparseLinear", "SparsityConfig", "TopologyUpdater", "Tower"]

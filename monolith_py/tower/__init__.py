"""The towers: what is dense of a model, and how it is sparse."""

from monolith_py.sparsity import SparsityConfig
from monolith_py.tower.atom_optimizer import AtomOptimizer, AtomRule, ParameterOptimizer
from monolith_py.tower.smaller import SmallerTower
from monolith_py.tower.sparse_linear import SparseLinear
from monolith_py.tower.swaps import Swaps
from monolith_py.tower.tower import Tower

__all__ = ["AtomOptimizer", "AtomRule", "ParameterOptimizer", "SmallerTower", "SparseLinear", "SparsityConfig", "Swaps", "Tower"]

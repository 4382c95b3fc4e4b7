"""Shape and schedule of the gates of a mixture of experts, without torch: trainer and replica share it.

Letters: T tasks, E experts, S slots of a gate: one, or the trees of a tree gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monolith_py.config.experts import ExpertsConfig

# Of the digits of a count among the dense parameters, which are float32 and may be published as float16: each digit is exact in both.
_BASE, NUM_DIGITS = 2048, 3


def to_digits(count: int) -> list[float]:
    """Return the digits of a count below 2^33, the least significant first.

    >>> from_digits(to_digits(1_234_567_890))
    1234567890
    """
    return [float(count // _BASE**place % _BASE) for place in range(NUM_DIGITS)]


def from_digits(digits: Sequence[float]) -> int:
    """Return the count with these `digits`."""
    return sum(round(digit) * _BASE**place for place, digit in enumerate(digits))


@dataclass(frozen=True)
class Gating:
    """Gates after a number of examples.

    >>> gate = ExpertsConfig(count=4, gate="dense_to_sparse", ramp_examples=100)
    >>> [Gating.at(gate, num).kept for num in (0, 50, 100)]
    [4, 3, 1]
    """

    is_tree: bool
    num_experts: int  # E
    num_slots: int  # S
    kept: int  # experts of a slot with a weight above 0
    temperature: float  # divisor of the scores
    split_width: float

    @staticmethod
    def at(config: ExpertsConfig, num_examples: int) -> Gating:
        """Return the gates of the settings after `num_examples` learnt examples."""
        is_tree = config.gate == "tree"
        learnt = min(num_examples, config.ramp_examples)
        kept = config.top_k
        if config.gate == "softmax":
            kept = config.count
        elif config.gate in ("dense_to_sparse", "tree"):
            last = 1 if is_tree else config.top_k
            kept = config.count - (config.count - last) * learnt // config.ramp_examples
        elif config.gate == "random":
            kept = 1 + (config.top_k - 1) * learnt // config.ramp_examples
        temperature = 1.0
        if config.gate == "dense_to_sparse":
            temperature = config.temperature * (config.final_temperature / config.temperature) ** (learnt / config.ramp_examples)
        return Gating(is_tree, config.count, config.top_k if is_tree else 1, kept, temperature, config.split_width)

    @property
    def num_scores(self) -> int:
        """Return the number of scores of a task: E, or for each tree its E - 1 splits, level by level, and its E leaves."""
        return self.num_slots * (2 * self.num_experts - 1) if self.is_tree else self.num_experts

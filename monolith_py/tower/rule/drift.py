"""A test for drift on the progressive loss: the loss of each batch before the model has learnt from it.

A fast mean of the losses against a slow one. The test fires where the fast one is above by a share of the loss that matters (`rise`) and
by more than chance makes of it (`_NUM_SIGMAS`): single batches are so noisy that a rise alone fires without end. Both means weigh a
batch by its examples, and both look back over as many examples however small the batches are.

With a, b the decays and n the examples of a batch, the difference of the means is a weighted sum of the losses, whose variance is

    var * sum over batches of n * (a^age / W_a - b^age / W_b)^2,   W_c = sum of n * c^age

where var is that of one example's loss, estimated by n * (loss - slow mean)^2 of the batches. This holds for batches that are
independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

# Decays of the means for a batch of `_BATCH` examples or more; a smaller one counts as that part of a batch.
_FAST, _SLOW = 0.9, 0.99
_BATCH = 256
# Losses of batches that follow each other hang together (users, hours), and their mean is skewed: more than a normal law would need.
_NUM_SIGMAS = 6.0
# Batches of `_BATCH` before the first test, so that the slow mean and the variance are known, and between a fire and the next test.
_WARM_UP = 200
_HOLD_OFF = 300


@dataclass
class _Sums:
    """Sums over the batches so far, each batch's share shrinking with its age."""

    fast: float = 0.0
    fast_weight: float = 0.0
    slow: float = 0.0
    slow_weight: float = 0.0
    # Sums of n * a^2age, n * (a b)^age and n * b^2age: what the variance of the difference is made of.
    fast_fast: float = 0.0
    fast_slow: float = 0.0
    slow_slow: float = 0.0
    variance: float = 0.0
    variance_weight: float = 0.0
    # Batches of `_BATCH` until the next test.
    wait: float = float(_WARM_UP)


class DriftTest:
    """Fires once soon after the loss has risen for good, and takes up again from the new level.

    With a fall, or a rise that takes more than some 100 batches of 256 examples, it does not fire. In 20,000 batches without drift it is
    not to fire, whatever their size.

    >>> test = DriftTest()
    >>> losses = [0.5 + 0.02 * (-1) ** step for step in range(400)] + [0.8] * 100
    >>> [step for step, loss in enumerate(losses) if test.update(loss, num_examples=256)]
    [402]
    """

    def __init__(self, rise: float = 0.08) -> None:
        """Make a test that has seen nothing. `rise`: least rise that is drift, as a share of the slow mean's size.

        Raises:
            ValueError: rise is not above 0.
        """
        if not rise > 0:
            raise ValueError(f"rise must be > 0, got {rise}")
        self.rise = rise
        self._sums = _Sums()

    def update(self, loss: float, num_examples: int) -> bool:
        """Take the mean loss of a batch's examples, and return whether the loss has drifted.

        Raises:
            ValueError: the loss is not finite, or there are no examples.
        """
        if not math.isfinite(loss):
            raise ValueError(f"loss must be finite, got {loss}")
        if num_examples < 1:
            raise ValueError(f"num_examples must be >= 1, got {num_examples}")
        sums = self._sums
        part = min(1.0, num_examples / _BATCH)
        fast, slow = _FAST**part, _SLOW**part
        if sums.slow_weight > 0:
            sums.variance = slow * sums.variance + num_examples * (loss - sums.slow / sums.slow_weight) ** 2
            sums.variance_weight = slow * sums.variance_weight + 1
        sums.fast = fast * sums.fast + num_examples * loss
        sums.slow = slow * sums.slow + num_examples * loss
        sums.fast_weight = fast * sums.fast_weight + num_examples
        sums.slow_weight = slow * sums.slow_weight + num_examples
        sums.fast_fast = fast**2 * sums.fast_fast + num_examples
        sums.fast_slow = fast * slow * sums.fast_slow + num_examples
        sums.slow_slow = slow**2 * sums.slow_slow + num_examples
        sums.wait = max(0.0, sums.wait - part)
        if sums.wait > 0 or not self._has_risen():
            return False
        self._start_anew()
        return True

    def state(self) -> dict[str, float]:
        """Return everything that `restore` needs to go on bit-equal."""
        return asdict(self._sums)

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: the names are not those of `state`.
        """
        names = {field.name for field in fields(_Sums)}
        if state.keys() != names:
            raise ValueError(f"state must have {sorted(names)}, got {sorted(state)}")
        self._sums = _Sums(**{name: float(value) for name, value in state.items()})

    def _has_risen(self) -> bool:
        sums = self._sums
        fast, slow = sums.fast / sums.fast_weight, sums.slow / sums.slow_weight
        share = (
            sums.fast_fast / sums.fast_weight**2
            - 2 * sums.fast_slow / (sums.fast_weight * sums.slow_weight)
            + sums.slow_slow / sums.slow_weight**2
        )
        chance = math.sqrt(max(0.0, share) * sums.variance / sums.variance_weight)
        return fast - slow > max(self.rise * abs(slow), _NUM_SIGMAS * chance)

    def _start_anew(self) -> None:
        """Forget the old level: what comes next is compared with losses after the drift alone."""
        self._sums = _Sums(wait=float(_HOLD_OFF))

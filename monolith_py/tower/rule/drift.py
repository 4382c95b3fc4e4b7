"""Drift test on the progressive loss: the loss of each batch before the model learns from it.

The test compares a fast and a slow exponential mean of the losses. It fires if the fast one is higher by a relevant share of the loss
(`rise`) and by more than noise (`_NUM_SIGMAS`): single batches are noisy: the rise test alone would fire constantly. Both means weight a
batch by its examples and cover the same number of examples for any batch size.

With decays a and b and n examples in a batch, the difference of the means is a weighted sum of the losses with the variance

    var * sum over batches of n * (a^age / W_a - b^age / W_b)^2,   W_c = sum of n * c^age

where var is the variance of one example's loss, estimated by n * (loss - slow mean)^2 over the batches. This assumes independent batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

# Decays of the means per batch of `_BATCH` or more examples; a smaller batch counts as a fraction of one.
_FAST, _SLOW = 0.9, 0.99
_BATCH = 256
# More than a normal distribution needs: losses of consecutive batches are correlated (users, hours) and their mean is skewed.
_NUM_SIGMAS = 6.0
# Batches of `_BATCH` before the first test, to estimate slow mean and variance, and between a fire and the next test.
_WARM_UP = 200
_HOLD_OFF = 300


@dataclass
class _Sums:
    """Sums over the batches, with exponential decay."""

    fast: float = 0.0
    fast_weight: float = 0.0
    slow: float = 0.0
    slow_weight: float = 0.0
    # Sums of n * a^2age, n * (a b)^age and n * b^2age, the terms of the variance of the difference.
    fast_fast: float = 0.0
    fast_slow: float = 0.0
    slow_slow: float = 0.0
    variance: float = 0.0
    variance_weight: float = 0.0
    # Batches of `_BATCH` until the next test.
    wait: float = float(_WARM_UP)


class DriftTest:
    """Drift test that fires once, soon after a lasting rise of the loss, and then restarts from the new level.

    It does not fire for a fall, nor for a rise over more than about 100 batches of 256 examples. It is tuned not to fire in 20,000 batches
    without drift, of any size.

    >>> test = DriftTest()
    >>> losses = [0.5 + 0.02 * (-1) ** step for step in range(400)] + [0.8] * 100
    >>> [step for step, loss in enumerate(losses) if test.update(loss, num_examples=256)]
    [402]
    """

    def __init__(self, rise: float = 0.08) -> None:
        """Make a test without a loss. `rise`: least rise that counts as drift, as a share of |slow mean|.

        Raises:
            ValueError: `rise` is not above 0.
        """
        if not rise > 0:
            raise ValueError(f"rise must be > 0, got {rise}")
        self.rise = rise
        self._sums = _Sums()

    def update(self, loss: float, num_examples: int) -> bool:
        """Add the mean loss of a batch of `num_examples`; return whether the loss has drifted.

        Raises:
            ValueError: the loss is not finite, or `num_examples` is below 1.
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
        self._restart()
        return True

    def state(self) -> dict[str, float]:
        """Return the state; `restore` continues bit-equal from it."""
        return asdict(self._sums)

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from the result of `state`.

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
        sigma = math.sqrt(max(0.0, share) * sums.variance / sums.variance_weight)
        return fast - slow > max(self.rise * abs(slow), _NUM_SIGMAS * sigma)

    def _restart(self) -> None:
        """Reset the sums, so that only losses after the drift are compared."""
        self._sums = _Sums(wait=float(_HOLD_OFF))

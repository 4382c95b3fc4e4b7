"""History of the atoms: the swap of each birth and drop, and health measures of the swaps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monolith_py.tower.layers.atoms import Mask

# Number of a swap long before the first: never born in a swap, never dropped.
_NEVER = np.iinfo(np.int32).min // 2


class SwapHistory:
    """Births and drops of all atoms of a tower; `record` each swap.

    A high regret rate suggests more steps between swaps, a low newborn survival a smaller drop fraction.

    >>> history = SwapHistory([np.array([[True, True, False]])])
    >>> history.record([np.array([[True, False, True]])])
    >>> (history.num_swaps, history.live_atoms, round(history.density, 2))
    (1, [2], 0.67)
    """

    def __init__(self, masks: Sequence[Mask], window: int = 10) -> None:
        """Start from `masks`. `window`: number of swaps within which regrowing a dropped atom counts as regret.

        Raises:
            ValueError: `window` is below 1.
        """
        if window < 1:
            raise ValueError(f"window must be >= 1, got {window}")
        self._window = window
        self._live = [mask.copy() for mask in masks]
        self._born = [np.full(mask.shape, _NEVER, np.int32) for mask in masks]
        self._dropped = [np.full(mask.shape, _NEVER, np.int32) for mask in masks]
        # Grown and regrown atoms of each of the last `window` swaps, the newest last.
        self._num_grown: deque[int] = deque(maxlen=max(window, 3))
        self._num_regretted: deque[int] = deque(maxlen=window)
        self.num_swaps = 0

    def record(self, masks: Sequence[Mask]) -> None:
        """Record a swap by the masks after it.

        Raises:
            ValueError: number or shapes of the masks differ from those before.
        """
        got, expected = [mask.shape for mask in masks], [mask.shape for mask in self._live]
        if got != expected:
            raise ValueError(f"masks must have the shapes {expected}, got {got}")
        self.num_swaps += 1
        num_grown = num_regretted = 0
        for before, after, born, dropped in zip(self._live, masks, self._born, self._dropped, strict=True):
            grown = after & ~before
            num_grown += int(grown.sum())
            num_regretted += int((grown & (dropped >= self.num_swaps - self._window)).sum())
            born[grown] = self.num_swaps
            dropped[before & ~after] = self.num_swaps
        self._num_grown.append(num_grown)
        self._num_regretted.append(num_regretted)
        self._live = [mask.copy() for mask in masks]

    @property
    def live_atoms(self) -> list[int]:
        """Return the number of live atoms of each layer."""
        return [int(mask.sum()) for mask in self._live]

    @property
    def density(self) -> float:
        """Return the share of live atoms."""
        return sum(self.live_atoms) / sum(mask.size for mask in self._live)

    @property
    def regret_rate(self) -> float:
        """Return the share of atoms grown in the last `window` swaps within `window` swaps of their drop; nan if none grew."""
        grown = sum(list(self._num_grown)[-self._window :])
        return sum(self._num_regretted) / grown if grown else math.nan

    @property
    def newborn_survival(self) -> float:
        """Return the share of the newborns of two swaps ago that are still live; nan if there were none."""
        if len(self._num_grown) < 3 or not self._num_grown[-3]:
            return math.nan
        alive = sum(int((live & (born == self.num_swaps - 2)).sum()) for live, born in zip(self._live, self._born, strict=True))
        return alive / self._num_grown[-3]

    def newborns(self, num_swaps: int) -> list[Mask]:
        """Return the masks of the live atoms born in the last `num_swaps` swaps."""
        oldest = self.num_swaps - num_swaps
        return [live & (born > oldest) for live, born in zip(self._live, self._born, strict=True)]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the state, each layer under its number; `restore` continues bit-equal from it with the same window."""
        arrays: dict[str, NDArray[Any]] = {
            "num_swaps": np.array(self.num_swaps, np.int64),
            "num_grown": np.array(self._num_grown, np.int64),
            "num_regretted": np.array(self._num_regretted, np.int64),
        }
        for layer, (live, born, dropped) in enumerate(zip(self._live, self._born, self._dropped, strict=True)):
            arrays |= {f"live.{layer}": live.copy(), f"born.{layer}": born.copy(), f"dropped.{layer}": dropped.copy()}
        return arrays

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from the result of `state`.

        Raises:
            ValueError: the state is of other layers or of a longer window.
        """
        expected = {name: (values.shape, values.dtype) for name, values in self.state().items() if "." in name}
        got = {name: (values.shape, values.dtype) for name, values in state.items() if "." in name}
        if got != expected:
            raise ValueError(f"state must have the layers {expected}, got {got}")
        if len(state["num_regretted"]) > self._window:
            raise ValueError(f"state must be of a window of {self._window} swaps, got {len(state['num_regretted'])}")
        self.num_swaps = int(state["num_swaps"])
        self._num_grown = deque(state["num_grown"].tolist(), maxlen=self._num_grown.maxlen)
        self._num_regretted = deque(state["num_regretted"].tolist(), maxlen=self._window)
        for layer in range(len(self._live)):
            self._live[layer] = state[f"live.{layer}"].copy()
            self._born[layer] = state[f"born.{layer}"].copy()
            self._dropped[layer] = state[f"dropped.{layer}"].copy()

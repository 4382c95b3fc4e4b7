"""Features in the first layer of a sparse tower: floors, scores free of the size of rows, growth by agreeing gradients, kept norms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower import AtomOptimizer, AtomRule, SparseLinear, TopologyUpdater, Tower
from monolith_py.tower.rule.masks import choose_by
from monolith_py.tower.rule.topology import Limits, ScoredLayer, choose

GROUPS, BATCH = (8, 4, 12), 64
WIDTH = sum(GROUPS)
SWAPS: dict[str, Any] = {"preset": "set", "atom": "16x1", "grow_criterion": "gradient", "update_interval": 4, "score_batches": 3}


class Learner:
    """A tower on three features, the second of which has inputs of `scale` times its usual size; `teach` gives the labels."""

    def __init__(self, config: SparsityConfig, scale: float = 1.0, lr: float = 0.01) -> None:
        torch.manual_seed(0)
        self.tower = Tower(WIDTH, [32], sparsity=config, groups=GROUPS)
        self.head = nn.Linear(32, 1)
        self.scale, self.lr = scale, lr
        self.atoms = AtomOptimizer(self.tower.sparse_layers, AtomRule(), config.newborn)
        self.updater = TopologyUpdater(self.tower.sparse_layers, self.atoms, config, seed=0)

    def batch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(number))
        labels = (inputs[:, 0] + inputs[:, 9] > 0).float()
        inputs[:, 8:12] *= self.scale
        return inputs, labels

    def step(self, number: int, labels: torch.Tensor | None = None) -> None:
        inputs, own = self.batch(number)
        loss = binary_cross_entropy_with_logits(
            self.head(self.tower(inputs)).squeeze(1), own if labels is None else labels, reduction="sum"
        )
        self.updater.before_backward()
        for parameter in self.tower.parameters():
            parameter.grad = None
        loss.backward()
        self.updater.after_backward(BATCH)
        self.atoms.step(self.lr, BATCH)
        self.updater.after_step(loss.item() / BATCH, BATCH)

    def live(self) -> list[int]:
        """Return the live atoms of each feature."""
        mask = self.tower.sparse_layers[0].live
        return [int(part.sum()) for part in np.split(mask, np.cumsum(GROUPS)[:-1], axis=1)]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 30), st.booleans())
def test_a_group_falls_to_its_floor_and_not_below(seed: int, floor: float, num_swap: int, worst: bool) -> None:
    generator = np.random.default_rng(seed)
    blocks, target = 3, 30
    live = generator.random((blocks, WIDTH)) < 0.7
    live[:, 0] = True
    keep, grow = generator.random((2, blocks, WIDTH))
    if worst:  # all scores of the second feature are the lowest
        keep[:, 8:12], grow[:, 8:12] = 0.0, 0.0
    [after] = choose([ScoredLayer(live, keep, grow, groups=GROUPS)], target, num_swap, Limits(group_floor=floor))
    assert after.sum() == target and after.any(axis=1).all()
    floors = [int(floor * target * width / WIDTH) for width in GROUPS]
    counts = [int(part.sum()) for part in np.split(after, np.cumsum(GROUPS)[:-1], axis=1)]
    before = [int(part.sum()) for part in np.split(live, np.cumsum(GROUPS)[:-1], axis=1)]
    for count, least, had in zip(counts, floors, before, strict=True):
        # One atom of each block may have to come first.
        assert count >= min(least, had) - (blocks if floor == 1.0 else 0)


def test_a_group_at_its_floor_still_swaps_its_own_atoms() -> None:
    live = np.zeros((1, WIDTH), np.bool_)
    live[0, [0, 1, 2, 3, 8, 12, 13, 14, 15, 16, 17, 18]] = True
    keep, grow = np.ones((2, 1, WIDTH))
    keep[0, 8], grow[0, 9] = 0.0, 2.0
    [after] = choose([ScoredLayer(live, keep, grow, groups=GROUPS)], 12, 12, Limits(group_floor=0.5))
    assert (after[0, 8], after[0, 9]) == (False, True)


def test_groups_must_be_those_of_the_inputs() -> None:
    one = np.ones((1, WIDTH))
    with pytest.raises(ValueError, match="groups must sum to 24 inputs, got 23"):
        ScoredLayer(one > 0, one, one, groups=(8, 15))


@pytest.mark.parametrize("config", [{"preset": "gmp"}, {"preset": "gmp", "scope": "model"}, {"preset": "dsl_online"}])
def test_no_feature_starves_on_a_ramp_while_its_rows_are_small(config: dict[str, Any]) -> None:
    # Scores of Taylor in proportion to the inputs: without a floor all atoms of the small feature die.
    taylor = {"drop_criterion": "taylor", "score_scale": "none", "min_agreement": 0.0} | config
    if config["preset"] == "gmp":
        del taylor["min_agreement"]
    counts = {}
    for share in (0.0, 0.5):
        learner = Learner(SparsityConfig(density=0.25, ramp=(4, 16), update_interval=4, min_feature_share=share, **taylor), scale=1e-3)
        for number in range(1, 21):
            learner.step(number)
        counts[share] = learner.live()
    assert counts[0.0][1] == 0
    assert counts[0.5][1] == int(0.5 * 12 * 4 / WIDTH)
    assert sum(counts[0.5]) == sum(counts[0.0]) == 12


def scores(config: SparsityConfig, scale: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return keep and grow scores before the swap; weights of the second feature are 0, so that its size changes nothing."""
    learner = Learner(config, scale, lr=0.0)
    layer = learner.tower.sparse_layers[0]
    second = torch.from_numpy((layer.columns.numpy() >= 8) & (layer.columns.numpy() < 12))
    layer.values.data[second] = 0.0
    for number in range(1, 4):
        learner.step(number)
    return learner.updater._keep_scores(0, layer.live), learner.updater._grow_scores(0, layer.live)


def test_grow_scores_do_not_depend_on_the_size_of_a_feature() -> None:
    scaled = SparsityConfig(**SWAPS, density=0.5, score_scale="input_rms")
    small, large = (scores(scaled, scale)[1] for scale in (0.01, 1.0))
    np.testing.assert_allclose(small, large, rtol=1e-4)
    plain = SparsityConfig(**SWAPS, density=0.5)
    small, large = (scores(plain, scale)[1] for scale in (0.01, 1.0))
    np.testing.assert_allclose(small[:, 8:12], 0.01 * large[:, 8:12], rtol=1e-4)


def test_an_input_scaled_by_100_with_weights_by_a_hundredth_grows_the_same_atoms() -> None:
    masks = []
    for scale in (1.0, 100.0):
        learner = Learner(SparsityConfig(**SWAPS, density=0.5, score_scale="input_rms"), scale, lr=0.0)
        layer = learner.tower.sparse_layers[0]
        inside = torch.from_numpy((layer.columns.numpy() >= 8) & (layer.columns.numpy() < 12))
        layer.values.data[inside] /= scale
        for number in range(1, 4):
            learner.step(number)
        grow = learner.updater._grow_scores(0, layer.live)
        masks.append(grow >= np.sort(grow.ravel())[-12])
    np.testing.assert_array_equal(*masks)


def test_taylor_scores_are_divided_by_the_size_of_the_feature() -> None:
    plain, scaled = (SparsityConfig(**SWAPS, density=0.5, drop_criterion="taylor", score_scale=scale) for scale in ("none", "input_rms"))
    learners = [Learner(config, 0.01, lr=0.0) for config in (plain, scaled)]
    for learner in learners:
        for number in range(1, 4):
            learner.step(number)
    live = learners[0].tower.sparse_layers[0].live
    before, after = (learner.updater._keep_scores(0, live) for learner in learners)
    inputs = torch.cat([learners[0].batch(number)[0] for number in (2, 3)])  # those of the last score_batches so far
    rms = torch.stack([part.square().mean().sqrt() for part in inputs.split(GROUPS, dim=1)]).repeat_interleave(torch.tensor(GROUPS)).numpy()
    np.testing.assert_allclose(after[live], (before / (rms * np.sqrt(2)))[live], rtol=1e-3)


def test_atoms_grow_by_agreeing_gradients_alone() -> None:
    """Labels by chance give gradients of noise: hardly an atom grows. After that the labels follow an input, and its atoms do."""
    config = SparsityConfig(**SWAPS | {"score_batches": 4}, density=0.25, drop_fraction_max=0.3, min_agreement=0.8)
    learner = Learner(config, lr=0.0)
    for number in range(1, 41):
        learner.step(number, torch.rand(BATCH, generator=torch.Generator().manual_seed(1000 + number)).round())
    noise = sum(learner.updater.history._num_grown)
    free = Learner(config.model_copy(update={"min_agreement": 0.0}), lr=0.0)
    for number in range(1, 41):
        free.step(number, torch.rand(BATCH, generator=torch.Generator().manual_seed(1000 + number)).round())
    assert noise < 0.5 * sum(free.updater.history._num_grown)
    learner.updater.history._num_grown.clear()
    for number in range(41, 61):
        learner.step(number)
    assert sum(learner.updater.history._num_grown) > noise


def test_the_swap_takes_no_more_atoms_than_may_grow() -> None:
    live = np.arange(WIDTH)[None, :] < 12
    ripe = np.zeros_like(live)
    ripe[0, [3, 20, 21]] = True
    config = SparsityConfig(**SWAPS, density=0.5, drop_fraction_max=1.0, min_agreement=0.5)
    [after] = choose_by(config, [ScoredLayer(live, np.arange(WIDTH)[None, :] * 1.0, np.ones(live.shape), ripe=ripe)], [12], 1.0)
    assert np.flatnonzero(after[0]).tolist() == [*range(2, 12), 20, 21]


def test_pruning_keeps_the_norm_of_each_block() -> None:
    ratios = {}
    for keeps in (False, True):
        learner = Learner(SparsityConfig(preset="gmp", density=0.25, ramp=(1, 2), update_interval=4, keep_norm=keeps), lr=0.0)
        layer = learner.tower.sparse_layers[0]
        before = block_norms(layer)
        for number in range(1, 5):
            learner.step(number)
        assert layer.num_live == 12
        ratios[keeps] = block_norms(layer) / before
    np.testing.assert_allclose(ratios[True], 1.0, rtol=1e-5)
    assert ratios[False].max() < 0.8


def block_norms(layer: SparseLinear) -> np.ndarray[Any, Any]:
    return np.array([float(part.norm()) for part in layer.values.detach().split(layer.bounds.diff().tolist())])


def test_the_rate_of_atoms_follows_the_density() -> None:
    learner = Learner(SparsityConfig(preset="gmp", density=0.25, ramp=(4, 8), update_interval=4, lr_scale="density"))
    scales = []
    for number in range(1, 10):
        scales.append(learner.updater.lr_scale)
        learner.step(number)
    assert scales[0] == 1.0 and scales[-1] == 2.0
    assert scales == sorted(scales)


def test_a_saved_state_continues_to_the_bit_in_the_middle_of_the_scores() -> None:
    config = SparsityConfig(**SWAPS, density=0.5, score_scale="input_rms", min_agreement=0.4, drop_fraction_max=0.3)
    calm, first, second = (Learner(config) for _ in range(3))
    for number in range(1, 25):
        calm.step(number)
    for number in range(1, 8):
        first.step(number)
    state = {name: value.clone() for name, value in first.updater.state().items()}
    assert {"squares", "energy.0", "gradient.0"} <= state.keys()
    second.tower.load_state_dict(first.tower.state_dict())
    second.atoms.restore(first.atoms.state())
    second.updater.restore(state)
    for number in range(8, 25):
        second.step(number)
    for name, value in calm.updater.state().items():
        assert torch.equal(value, second.updater.state()[name]), name

"""Every rule against its paper's equation in float64, and against torch if torch has it.

Letters: n rows, D the dim, g a row's gradient summed over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from monolith_py.table import (
    NO_ROW,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    AmsGrad,
    EmbeddingTable,
    Ftrl,
    GroupAdagrad,
    GroupFtrl,
    Momentum,
    Optimizer,
    RmsProp,
    RowwiseAdagrad,
    Sgd,
)

DIM, NUM_ROWS, SCALE = 8, 12, 0.5
Array = np.ndarray
State = dict[str, Array]


def sgd(rule: Sgd, w: Array, g: Array, s: State) -> Array:
    return w - rule.lr * g


def momentum(rule: Momentum, w: Array, g: Array, s: State) -> Array:
    """Sutskever et al. 2013 in the form of torch.optim.SGD."""
    s["v"] = rule.momentum * s.get("v", np.zeros(DIM)) + g
    return w - rule.lr * (g + rule.momentum * s["v"] if rule.nesterov else s["v"])


def adagrad(rule: Adagrad, w: Array, g: Array, s: State) -> Array:
    """Duchi et al. 2011, with the diagonal matrix."""
    s["n"] = s.get("n", np.full(DIM, rule.initial_accumulator)) + g**2
    return w - rule.lr * g / (np.sqrt(s["n"]) + rule.eps)


def rowwise_adagrad(rule: RowwiseAdagrad, w: Array, g: Array, s: State) -> Array:
    s["n"] = s.get("n", np.full(1, rule.initial_accumulator)) + np.mean(g**2)
    return w - rule.lr * g / (np.sqrt(s["n"]) + rule.eps)


def adadelta(rule: Adadelta, w: Array, g: Array, s: State) -> Array:
    """Zeiler 2012, algorithm 1."""
    s["g2"] = rule.rho * s.get("g2", np.zeros(DIM)) + (1 - rule.rho) * g**2
    dx2 = s.get("dx2", np.zeros(DIM))
    dx = -np.sqrt(dx2 + rule.eps) / np.sqrt(s["g2"] + rule.eps) * g
    s["dx2"] = rule.rho * dx2 + (1 - rule.rho) * dx**2
    return w + rule.lr * dx


def rmsprop(rule: RmsProp, w: Array, g: Array, s: State) -> Array:
    """Tieleman and Hinton 2012."""
    s["n"] = rule.rho * s.get("n", np.zeros(DIM)) + (1 - rule.rho) * g**2
    return w - rule.lr * g / (np.sqrt(s["n"]) + rule.eps)


def adam(rule: Adam, w: Array, g: Array, s: State) -> Array:
    """Kingma and Ba 2015, algorithm 1; with the greatest v, Reddi et al. 2018."""
    s["t"] = s.get("t", np.zeros(1)) + 1
    s["m"] = rule.beta1 * s.get("m", np.zeros(DIM)) + (1 - rule.beta1) * g
    s["v"] = rule.beta2 * s.get("v", np.zeros(DIM)) + (1 - rule.beta2) * g**2
    s["top"] = np.maximum(s.get("top", np.zeros(DIM)), s["v"])
    v = s["top"] if isinstance(rule, AmsGrad) else s["v"]
    m_hat, v_hat = s["m"] / (1 - rule.beta1 ** s["t"]), v / (1 - rule.beta2 ** s["t"])
    return w - rule.lr * m_hat / (np.sqrt(v_hat) + rule.eps)


def adamw(rule: AdamW, w: Array, g: Array, s: State) -> Array:
    """Loshchilov and Hutter 2019, algorithm 2, whose lambda is times the rate."""
    return adam(rule, w, g, s) - rule.lr * rule.weight_decay * w


def ftrl(rule: Ftrl, w: Array, g: Array, s: State) -> Array:
    """McMahan et al. 2013, algorithm 1; alpha is our lr."""
    n, z = s.get("n", np.full(DIM, rule.initial_accumulator)), s.get("z", np.zeros(DIM))
    sigma = (np.sqrt(n + g**2) - np.sqrt(n)) / rule.lr
    s["z"], s["n"] = z + g - sigma * w, n + g**2
    shrunk = -(s["z"] - np.sign(s["z"]) * rule.l1) / ((rule.beta + np.sqrt(s["n"])) / rule.lr + rule.l2)
    return np.where(np.abs(s["z"]) <= rule.l1, 0.0, shrunk)


def group_adagrad(rule: GroupAdagrad, w: Array, g: Array, s: State) -> Array:
    """Adagrad's step with one accumulator, then the proximal step of Yang et al. 2010, equation 9."""
    s["n"] = s.get("n", np.full(1, rule.initial_accumulator)) + np.max(g**2)
    rate = rule.lr / (np.sqrt(s["n"]) + rule.eps)
    moved = w - rate * g
    return np.maximum(0.0, 1 - rate * rule.l2 * np.sqrt(DIM) / np.linalg.norm(moved)) * moved


def group_ftrl(rule: GroupFtrl, w: Array, g: Array, s: State) -> Array:
    """Ni et al. 2021, algorithm 1, without its ridge term."""
    n, z = s.get("n", np.full(DIM, rule.initial_accumulator)), s.get("z", np.zeros(DIM))
    s["z"], s["n"] = z + g - (np.sqrt(n + g**2) - np.sqrt(n)) / rule.lr * w, n + g**2
    soft = np.sign(s["z"]) * np.maximum(np.abs(s["z"]) - rule.l1, 0)
    norm = np.linalg.norm(soft)
    if norm <= rule.l2 * np.sqrt(DIM):
        return np.zeros(DIM)
    return -soft * (1 - rule.l2 * np.sqrt(DIM) / norm) * rule.lr / (rule.beta + np.sqrt(s["n"]))


def prepared(rule: Optimizer, w: Array, g: Array) -> Array:
    """Decay as part of the gradient, except where the rule has its own; then the clip of the norm."""
    g = g + (0 if isinstance(rule, AdamW) else rule.weight_decay) * w
    norm = np.linalg.norm(g)
    return g * rule.clip_norm / norm if 0 < rule.clip_norm < norm else g


RULES: list[tuple[Optimizer, Callable[..., Array]]] = [
    (Sgd(lr=0.1), sgd),
    (Adagrad(lr=0.1), adagrad),
    (Adagrad(lr=0.3, eps=0.1, initial_accumulator=0.0), adagrad),
    (RowwiseAdagrad(lr=0.1), rowwise_adagrad),
    (RowwiseAdagrad(lr=0.2, eps=0.05, initial_accumulator=0.7), rowwise_adagrad),
    (Adam(lr=0.05), adam),
    (Adam(lr=0.02, beta1=0.7, beta2=0.9, eps=0.01), adam),
    (Ftrl(lr=0.1), ftrl),
    (Ftrl(lr=0.2, initial_accumulator=0.3, l1=0.5, l2=0.1, beta=1.0), ftrl),
    (Momentum(lr=0.05), momentum),
    (Momentum(lr=0.05, momentum=0.5, nesterov=True), momentum),
    (Adadelta(), adadelta),
    (Adadelta(lr=0.5, rho=0.6, eps=0.01), adadelta),
    (RmsProp(lr=0.05), rmsprop),
    (RmsProp(lr=0.1, rho=0.7, eps=0.05), rmsprop),
    (AmsGrad(lr=0.05, beta2=0.6), adam),
    (AdamW(lr=0.05, weight_decay=0.3), adamw),
    (GroupAdagrad(lr=0.1), group_adagrad),
    (GroupAdagrad(lr=0.1, eps=0.01, initial_accumulator=1.0, l2=0.05), group_adagrad),
    (GroupFtrl(lr=0.1), group_ftrl),
    (GroupFtrl(lr=0.3, initial_accumulator=0.1, beta=0.5, l1=0.2, l2=0.02), group_ftrl),
]
RULES += [
    (replace(rule, weight_decay=0.2, clip_norm=clip), reference)
    for rule, reference in RULES[::2]
    for clip in (0.0, 1.5)
    if (rule.weight_decay, rule.clip_norm) == (0.0, 0.0)
] + [
    (AdamW(lr=0.05, weight_decay=0.3, clip_norm=1.5), adamw),
    (Adagrad(clip_norm=1.5), adagrad),
    (GroupFtrl(lr=0.2, l2=0.01, weight_decay=0.2, clip_norm=1.5), group_ftrl),
    (AmsGrad(lr=0.05, beta2=0.6, weight_decay=0.2, clip_norm=1.5), adam),
]
of_every_rule = pytest.mark.parametrize(("rule", "reference"), RULES, ids=[f"{rule}" for rule, _ in RULES])


def full_table(rule: Optimizer) -> tuple[EmbeddingTable, Array]:
    table = EmbeddingTable(DIM, rule, init_scale=SCALE, seed=3)
    return table, table.find_or_insert(np.arange(NUM_ROWS), 0)


@of_every_rule
def test_rows_follow_the_equation(rule: Optimizer, reference: Callable[..., Array]) -> None:
    generator = np.random.default_rng(11)
    table, rows = full_table(rule)
    expected = table.gather(rows).astype(np.float64)
    states: list[State] = [{} for _ in range(NUM_ROWS)]
    for _ in range(25):
        batch = generator.integers(0, NUM_ROWS, 9)  # some fids twice, some not at all
        gradients = generator.normal(size=(9, DIM)).astype(np.float32)
        table.update(rows[batch], gradients)
        for fid in set(batch.tolist()):
            summed = gradients[batch == fid].astype(np.float64).sum(0)
            expected[fid] = reference(rule, expected[fid], prepared(rule, expected[fid], summed), states[fid])
        np.testing.assert_allclose(table.gather(rows), expected, rtol=2e-4, atol=2e-5)
    assert len({state["t"].item() for state in states if "t" in state}) != 1, "every row has its own step count"


@of_every_rule
def test_duplicates_take_one_step_with_their_sum(rule: Optimizer, reference: Callable[..., Array]) -> None:
    (one, rows), (two, same_rows) = full_table(rule), full_table(rule)
    whole = np.float32(0.5) * np.arange(1, DIM + 1, dtype=np.float32)
    one.update(rows[[4, 4, 4]], np.stack([whole * 4, whole * -6, whole * 3]))
    two.update(same_rows[[4]], whole[None])
    np.testing.assert_array_equal(one.gather(rows), two.gather(same_rows))
    assert (one.gather(rows)[4] != full_table(rule)[0].gather(rows)[4]).any()


@of_every_rule
def test_rows_not_in_the_batch_and_no_row_stay_as_they_are(rule: Optimizer, reference: Callable[..., Array]) -> None:
    table, rows = full_table(rule)
    before = table.gather(rows)
    table.update(np.array([NO_ROW, rows[2], NO_ROW], np.uint32), np.ones((3, DIM), np.float32))
    changed = (table.gather(rows) != before).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [2]
    assert not table.gather(np.array([NO_ROW], np.uint32)).any()


@of_every_rule
def test_an_evicted_fid_starts_again_with_fresh_weights_and_state(rule: Optimizer, reference: Callable[..., Array]) -> None:
    table, again = (EmbeddingTable(DIM, rule, init_scale=SCALE, ttl_s=10) for _ in range(2))
    gradient = np.ones((1, DIM), np.float32)
    for _ in range(3):
        table.update(table.find_or_insert([7], 0), gradient)
    assert table.evict(11).tolist() == [7]
    for one in (table, again):
        one.update(one.find_or_insert([7], 11), gradient)
    np.testing.assert_array_equal(table.export_rows()[1], again.export_rows()[1])


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (Sgd(lr=0.1), lambda parameter: torch.optim.SGD([parameter], lr=0.1)),
        (
            Adagrad(lr=0.1, eps=1e-3, initial_accumulator=0.2),
            lambda parameter: torch.optim.Adagrad([parameter], lr=0.1, eps=1e-3, initial_accumulator_value=0.2),
        ),
        (
            Adam(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-4),
            lambda parameter: torch.optim.Adam([parameter], lr=0.01, betas=(0.8, 0.95), eps=1e-4),
        ),
        (Sgd(lr=0.1, weight_decay=0.3), lambda parameter: torch.optim.SGD([parameter], lr=0.1, weight_decay=0.3)),
        (Momentum(lr=0.02, momentum=0.8), lambda parameter: torch.optim.SGD([parameter], lr=0.02, momentum=0.8)),
        (
            Momentum(lr=0.02, nesterov=True, weight_decay=0.2),
            lambda parameter: torch.optim.SGD([parameter], lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.2),
        ),
        (
            Adadelta(lr=0.7, rho=0.8, eps=1e-3, weight_decay=0.1),
            lambda parameter: torch.optim.Adadelta([parameter], lr=0.7, rho=0.8, eps=1e-3, weight_decay=0.1),
        ),
        (
            RmsProp(lr=0.02, rho=0.9, eps=1e-4, weight_decay=0.1),
            lambda parameter: torch.optim.RMSprop([parameter], lr=0.02, alpha=0.9, eps=1e-4, weight_decay=0.1),
        ),
        (
            AmsGrad(lr=0.02, beta1=0.8, beta2=0.6, eps=1e-4, weight_decay=0.1),
            lambda parameter: torch.optim.Adam([parameter], lr=0.02, betas=(0.8, 0.6), eps=1e-4, weight_decay=0.1, amsgrad=True),
        ),
        (
            AdamW(lr=0.02, beta2=0.95, eps=1e-4, weight_decay=0.4),
            lambda parameter: torch.optim.AdamW([parameter], lr=0.02, betas=(0.9, 0.95), eps=1e-4, weight_decay=0.4),
        ),
    ],
    ids=lambda value: f"{value}" if isinstance(value, Optimizer) else "",
)
def test_rows_touched_in_each_step_are_what_torch_makes_of_them(
    rule: Optimizer, make: Callable[[torch.nn.Parameter], torch.optim.Optimizer]
) -> None:
    generator = np.random.default_rng(5)
    table, rows = full_table(rule)
    parameter = torch.nn.Parameter(torch.from_numpy(table.gather(rows)))
    optimizer = make(parameter)
    for _ in range(30):
        gradients = generator.normal(size=(NUM_ROWS, DIM)).astype(np.float32)
        table.update(rows, gradients)
        parameter.grad = torch.from_numpy(gradients)
        optimizer.step()
    np.testing.assert_allclose(table.gather(rows), parameter.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_learning_rate_that_is_set_rules_the_next_steps() -> None:
    table, rows = full_table(Sgd(lr=1.0))
    before = table.gather(rows)
    table.set_lr(0.25)
    table.update(rows, np.ones((NUM_ROWS, DIM), np.float32))
    np.testing.assert_array_equal(table.gather(rows), before - np.float32(0.25))


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_a_learning_rate_must_be_positive(lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be > 0"):
        Sgd(lr=lr)

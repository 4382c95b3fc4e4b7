"""Fitting of the saved state of the dense optimizer to a fitted model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from monolith_py.data.columns import Int64Array
from monolith_py.training.bias_start import UNKNOWN_RATE
from monolith_py.training.checkpoint.fitted import FittedModel, Tensors, take
from monolith_py.training.trainer import Trainer


def fit_optimizer(trainer: Trainer, fitted: FittedModel, saved_model: Tensors, saved: Tensors, *, is_same_kind: bool) -> str:
    """Restart the optimizer of a fitted model; keep the saved state of parameters whose entries were all saved. Return a line about it.

    `saved` is the state of a `DenseOptimizer` for the parameters `saved_model`. Pending gradients are kept only if the whole model is.
    """
    trainer.restart_optimizer()
    parameters = dict(trainer.model.named_parameters())
    kept = {name for name in parameters if is_same_kind and name in fitted.places and all((one >= 0).all() for one in fitted.places[name])}
    state = {**trainer.optimizer.state()}
    for name in kept:
        for key, value in _state_of(name, saved_model, saved).items():
            target = _present(key, name, trainer)
            if target in state:
                places = fitted.places[name] if key.startswith("whole.") and not key.startswith("whole.step.") else ()
                state[target] = take(value.view(saved_model[name].shape), places).reshape(1, -1) if places else value
    if "head.bias" in fitted.places:  # a head that starts anew takes its bias from the next examples
        state["bias_start.sums"] = _sums(saved["bias_start.sums"], fitted.places["head.bias"])
    is_whole = kept == set(parameters) and not any(fitted.places.values()) and set(saved_model) == set(trainer.model.state_dict())
    if is_whole:
        state = {key: value for key, value in state.items() if not key.startswith("pending.")} | _part("pending", saved)
    topologies = {name for name in parameters if name.endswith(".values")}
    whole = (
        {**state}
        if not topologies <= kept
        else {k: v for k, v in state.items() if not k.startswith("topology.")} | _part("topology", saved)
    )
    try:
        trainer.optimizer.restore(whole)
    except (KeyError, ValueError):  # another schedule: the topology's scores start anew
        trainer.restart_optimizer()
        trainer.optimizer.restore(state)
    if trainer.optimizer.updater is not None and "topology.steps" in saved:
        trainer.optimizer.updater.resume(int(saved["topology.steps"][0]))
    reason = "" if is_same_kind else ", optimizer.dense.kind is another"
    return f"optimizer state of dense parameters: {len(kept)} of {len(parameters)} kept{reason}"


def _sums(saved: Tensor, places: tuple[Int64Array, ...]) -> Tensor:
    """Return the sums of `BiasStart` for the tasks at `places` of the saved ones; a new task has the rate of an unknown one."""
    if not places:
        return saved
    tasks = torch.from_numpy(places[0])
    positives = torch.where(tasks >= 0, saved[2:][tasks.clamp(min=0)], saved[1] * UNKNOWN_RATE)
    return torch.cat((saved[:2], positives))


def _part(name: str, tensors: Tensors) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _sparse_names(tensors: Mapping[str, object]) -> list[str]:
    """Return the names of the values of sparse layers, in their order in the state of an `AtomOptimizer`."""
    names = [name for name in tensors if name.startswith(("tower.", "experts.")) and name.endswith(".values")]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])


def _state_of(name: str, saved_model: Tensors, saved: Tensors) -> dict[str, Tensor]:
    """Return the saved state of one parameter."""
    if not name.endswith(".values"):
        return {key: value for key, value in saved.items() if key.startswith("whole.") and key.split(".", 2)[2] == name}
    prefix = f"atoms.{_sparse_names(saved_model).index(name)}."
    return {key: value for key, value in saved.items() if key.startswith(prefix)}


def _present(key: str, name: str, trainer: Trainer) -> str:
    """Return the key of the present state for a saved one."""
    if not name.endswith(".values"):
        return key
    part, _, rest = key.split(".", 2)
    return f"{part}.{_sparse_names(dict(trainer.model.named_parameters())).index(name)}.{rest}"

"""Fitting of saved dense parameters to a model with other features, tasks or layers.

Letters: O outputs and I inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from monolith_py.config.sparsity import Atom
from monolith_py.data.columns import Int64Array
from monolith_py.data.layout import Layout
from monolith_py.model import RankModel
from monolith_py.model.cross import CrossNetwork
from monolith_py.model.inputs import Label, bottom_inputs, tower_inputs
from monolith_py.tower import SparseLinear, Tower
from monolith_py.tower.layers.sparse_linear import atoms_of
from monolith_py.training.bias_start import UNKNOWN_RATE
from monolith_py.training.checkpoint.fitted import FittedModel, Tensors, take
from monolith_py.training.checkpoint.fitting_gates import fit_gates


@dataclass(frozen=True)
class SavedModel:
    """Dense parameters of a checkpoint with the settings that give them their meaning."""

    tensors: Tensors
    layout: Layout
    atom: Atom
    has_runs: bool  # model.sparsity.scope is N:M: live atoms cannot move with their inputs


def fit_model(model: RankModel, layout: Layout, saved: SavedModel) -> FittedModel:
    """Set the parameters of a new `model` of `layout` to those saved, by name of inputs and tasks; return the effect.

    New inputs of a tower start at weight 0, so that scores do not jump. Layers of another width start anew, with all layers above them.
    New tasks start anew.
    """
    fitted = FittedModel()
    before = saved.layout
    if layout.kind != before.kind:
        fitted.lines.append(f"dense parameters: started anew, model.kind is {layout.kind!r}, was {before.kind!r}")
        return fitted
    with torch.no_grad():
        bottom = getattr(model, "bottom", None)
        if isinstance(bottom, Tower):
            columns = _places(bottom_inputs(layout), bottom_inputs(before))
            _fit_tower(bottom, columns, _SavedTower(saved, "bottom", len(bottom_inputs(before))), fitted)
        _fit_attention(model, saved.tensors, fitted)
        columns = _places(tower_inputs(layout), tower_inputs(before))
        num_inputs, first = len(tower_inputs(before)), next(iter(model.towers.values()))
        kept = [_fit_tower(tower, columns, _SavedTower(saved, name, num_inputs), fitted) for name, tower in model.towers.items()]
        widths = _SavedTower(saved, next(iter(model.towers)), num_inputs).widths
        is_whole = all(kept)
        cross = getattr(model, "cross", None)
        if isinstance(cross, CrossNetwork):
            is_whole &= _fit_cross(cross, columns, saved.tensors, fitted)
        inputs, num_saved = np.arange(first.out_features) if len(first.layers) else columns, widths[-1]
        if model.head.in_features > len(inputs):  # the head reads the last cross layer, then the tower
            inputs, num_saved = np.concatenate([columns, widths[0] + inputs]), widths[0] + num_saved
        is_whole &= saved.tensors["head.weight"].shape[1] == num_saved
        tasks = _places(layout.tasks, before.tasks)
        _fit_tasks(model, (tasks, inputs), saved.tensors, is_whole, fitted)
        if model.experts is not None:
            fit_gates(model.experts.gates, (tasks, columns), saved.tensors, fitted)
    return fitted


def _fit_attention(model: RankModel, saved: Tensors, fitted: FittedModel) -> None:
    """Set the attention over each sequence to that saved, if its layers have the same shapes."""
    if model.attention is None:
        return
    for name, attention in model.attention.named_children():
        parameters = {f"attention.{name}.{key}": value for key, value in attention.named_parameters()}
        is_kept = all(key in saved and saved[key].shape == value.shape for key, value in parameters.items())
        fitted.lines.append(f"attention {name}: {'kept' if is_kept else 'started anew'}")
        for key, value in parameters.items() if is_kept else ():
            value.copy_(saved[key])
            fitted.keep(key, *map(np.arange, value.shape))


def _places(names: Sequence[Label], saved: Sequence[Label]) -> Int64Array:
    """Return the saved place of each name, -1 for a new one."""
    place = {name: index for index, name in enumerate(saved)}
    return np.array([place.get(name, -1) for name in names], np.int64)


class _SavedTower:
    """The layers of a saved tower as dense weights and masks."""

    def __init__(self, saved: SavedModel, name: str, num_inputs: int) -> None:
        self.saved, self.name = saved, name
        self.widths = [num_inputs]
        while (bias := saved.tensors.get(f"{name}.layers.{len(self.widths) - 1}.bias")) is not None:
            self.widths.append(len(bias))

    @property
    def num_layers(self) -> int:
        return len(self.widths) - 1

    def parts(self, index: int) -> dict[str, Tensor]:
        """Return the tensors of a layer by their names in it."""
        prefix = f"{self.name}.layers.{index}."
        return {name.removeprefix(prefix): value for name, value in self.saved.tensors.items() if name.startswith(prefix)}

    def sparse(self, index: int) -> SparseLinear | None:
        """Return a saved sparse layer, None for a dense one."""
        parts = self.parts(index)
        if "values" not in parts:
            return None
        layer = SparseLinear(self.widths[index], self.widths[index + 1], self.saved.atom)
        layer.load_state_dict(parts)
        return layer


def _fit_tower(tower: Tower, columns: Int64Array, saved: _SavedTower, fitted: FittedModel) -> bool:
    """Fit the layers from the first on, up to one of another width; return whether the whole tower is kept."""
    outputs = [layer.out_features for layer in tower.layers]
    num_kept = 0
    for index, layer in enumerate(tower.layers):
        if index >= saved.num_layers or outputs[index] != saved.widths[index + 1]:
            break
        assert isinstance(layer, SparseLinear | nn.Linear)
        inputs = columns if index == 0 else np.arange(saved.widths[index])
        _fit_layer(layer, index, inputs, saved, fitted)
        num_kept += 1
    num_new, num_dropped = int((columns < 0).sum()), saved.widths[0] - int((columns >= 0).sum())
    text = f"{saved.name}: {num_kept} of {len(outputs)} layers kept"
    if num_kept and num_new + num_dropped:
        text += f", {num_new} new inputs started at 0, {num_dropped} inputs dropped"
    is_whole = num_kept == len(outputs) == saved.num_layers
    if not is_whole:
        text += f", the others started anew: outputs are {outputs}, were {saved.widths[1:]}"
    fitted.lines.append(text)
    return is_whole and (bool(outputs) or not (num_new + num_dropped))


def _fit_layer(layer: SparseLinear | nn.Linear, index: int, columns: Int64Array, tower: _SavedTower, fitted: FittedModel) -> None:
    """Set one layer to the saved one with its inputs at `columns`."""
    rows, parts, saved, name = np.arange(layer.out_features), tower.parts(index), tower.sparse(index), f"{tower.name}.layers.{index}"
    layer.bias.copy_(parts["bias"])
    fitted.keep(f"{name}.bias", rows)
    is_same = len(columns) == tower.widths[index] and bool((columns == np.arange(len(columns))).all())
    if isinstance(layer, SparseLinear) and saved is not None and saved.atom == layer.atom and is_same:
        layer.load_state_dict(parts)
        fitted.keep(f"{name}.values", rows)
        return
    weight = take(parts["weight"] if saved is None else saved.weight(), (rows, columns))  # (O, I)
    if isinstance(layer, nn.Linear):
        layer.weight.copy_(weight)
        if saved is None:
            fitted.keep(f"{name}.weight", rows, columns)
        return
    version = layer.topology_version if saved is None else saved.topology_version + 1
    moves = saved is not None and saved.atom == layer.atom and not tower.saved.has_runs
    mask = _moved(saved, layer, columns) if saved is not None and moves else layer.live
    layer.place(mask, atoms_of(weight, layer.atom)[torch.from_numpy(np.atleast_2d(mask))])
    layer.topology_version.copy_(version)


def _moved(saved: SparseLinear, layer: SparseLinear, columns: Int64Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return the live atoms of `saved` at the inputs `columns`; new inputs have those of `layer`."""
    if layer.atom == "neuron":
        return saved.live
    mask = layer.live.copy()  # (blocks, I)
    known = columns >= 0
    mask[:, known] = saved.live[:, columns[known]]
    return mask


def _fit_cross(cross: CrossNetwork, columns: Int64Array, saved: Tensors, fitted: FittedModel) -> bool:
    """Fit the cross layers by their inputs, if their number and rank are those saved; return whether they are.

    New inputs start at 0 in full matrices; in those of low rank they keep the start values of `up`, without which they would not learn.
    """
    own = {f"cross.{name}": value for name, value in cross.named_parameters()}
    before = {name: value for name, value in saved.items() if name.startswith("cross.")}
    ranks = [value.shape[1] for tensors in (own, before) for name, value in tensors.items() if name.endswith(".up")]
    if own.keys() != before.keys() or len(set(ranks)) > 1:
        fitted.lines.append("cross layers: started anew, their number or rank is another")
        return False
    for name, parameter in own.items():
        other = np.arange(parameter.shape[-1]) if name.endswith(".up") else np.arange(len(parameter))
        places = {"bias": (columns,), "weight": (columns, columns), "down": (other, columns), "up": (columns, other)}[name.split(".")[-1]]
        fit = take(before[name], places)
        if name.endswith(".up"):
            fit = torch.where(torch.from_numpy(columns >= 0)[:, None], fit, parameter)
        parameter.copy_(fit)
        fitted.keep(name, *places)
    fitted.lines.append(f"cross layers: {len(cross.layers)} kept")
    return True


def _fit_tasks(model: RankModel, places: tuple[Int64Array, Int64Array], saved: Tensors, is_whole: bool, fitted: FittedModel) -> None:
    """Fit the head, if its inputs are those saved, and the scales of a DeepFM; `places`: saved ones of tasks and of inputs."""
    tasks, inputs = places
    known = tasks >= 0
    index, place = torch.from_numpy(np.flatnonzero(known)), torch.from_numpy(tasks[known])
    if is_whole:
        model.head.weight[index] = take(saved["head.weight"][place], (np.arange(len(place)), inputs))
        regressions = [link.kind in ("value", "log1p") for link in model.links for _ in range(link.size)] or [False] * len(tasks)
        model.head.bias.copy_(torch.where(torch.tensor(regressions), UNKNOWN_RATE, torch.logit(torch.tensor(UNKNOWN_RATE))))
        model.head.bias[index] = saved["head.bias"][place]
        fitted.keep("head.weight", tasks, inputs)
        fitted.keep("head.bias", tasks)
        fitted.lines.append(f"head: {len(index)} of {len(tasks)} tasks kept" + (", the others started anew" if not known.all() else ""))
    else:
        fitted.lines.append("head: started anew, its inputs are others")
    if model.calibration is not None and "calibration" in saved and is_whole:  # that of another head says nothing
        model.calibration[:, index] = saved["calibration"][:, place]
    scales = getattr(model, "scales", None)
    if isinstance(scales, Tensor):
        scales[:, index] = saved["scales"][:, place]
        fitted.keep("scales", np.arange(2), tasks)

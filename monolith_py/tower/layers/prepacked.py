"""Dense layers for serving, with weights in oneDNN's order if that is faster than torch's own.

The faster one depends on machine, shape and batch (measured: oneDNN 2.3 times faster on one CPU, slower at batch 1 on the same), so both
are timed once for each shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

# Least batch size of each class; a class is timed at this size.
_BATCHES = (1, 8, 64, 512)
_TRIES = 7

_Call = Callable[[Tensor], Tensor]


class Prepacked(nn.Module):
    """Linear and ReLU with fixed weights (O, I) and bias (O,), on the CPU, without gradients."""

    def __init__(self, weight: Tensor, bias: Tensor, *, bf16: bool) -> None:
        """Copy the weights in bf16 or float32."""
        super().__init__()
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        weight, bias = weight.detach().to(self._dtype).clone(), bias.detach().to(self._dtype).clone()
        calls = {"torch": _torch_call(weight, bias), "onednn": _onednn_call(weight, bias)}
        threads = torch.get_num_threads()
        self._calls = [calls[_faster(tuple(weight.shape), batch, self._dtype, threads)] for batch in _BATCHES]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, (B, I) -> (B, O), in the dtype of the layer."""
        size_class = sum(len(inputs) >= batch for batch in _BATCHES[1:])
        return self._calls[size_class](inputs.to(self._dtype))


def _torch_call(weight: Tensor, bias: Tensor) -> _Call:
    return lambda inputs: torch.relu_(linear(inputs, weight, bias))


def _onednn_call(weight: Tensor, bias: Tensor) -> _Call:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return _torch_call(weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _BATCHES[-1])
    return lambda inputs: torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "relu", [], "")


@cache
def _faster(shape: tuple[int, int], batch: int, dtype: torch.dtype, threads: int) -> str:
    """Return "torch" or "onednn". `threads` is only a part of the cache key."""
    weight, bias, inputs = (torch.ones(size, dtype=dtype) for size in (shape, shape[:1], (batch, shape[1])))
    try:
        calls = {"torch": _torch_call(weight, bias), "onednn": _onednn_call(weight, bias)}
        best = dict.fromkeys(calls, float("inf"))
        with torch.inference_mode():
            for _ in range(_TRIES):
                for name, call in calls.items():
                    began_s = time.perf_counter()
                    call(inputs)
                    best[name] = min(best[name], time.perf_counter() - began_s)
    except RuntimeError:  # oneDNN refuses bf16 on CPUs without the instructions
        return "torch"
    return min(best, key=lambda name: best[name])

"""Device of a replica. Only one with CUDA, or with FBGEMM on the CPU, needs torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

from monolith_py.config import ServingConfig
from monolith_py.errors import ConfigError


class Device(Protocol):
    """Device as torch names it; a `torch.device` is one."""

    @property
    def type(self) -> str:
        """Return "cpu" or "cuda"."""
        ...


@dataclass(frozen=True)
class Cpu:
    """The CPU, named without torch.

    >>> Cpu().type
    'cpu'
    """

    type: str = "cpu"


def device_of(config: ServingConfig) -> Device:
    """Return the device to rank on: CUDA if the machine has it and the settings allow it.

    Raises:
        ConfigError: the settings require CUDA and there is none.
    """
    if config.device == "cpu" or not _has_cuda():
        if config.device == "cuda":
            raise ConfigError("serving.device must be 'auto' or 'cpu' on a machine without CUDA, got 'cuda'")
        return Cpu()
    import torch

    return torch.device("cuda")


def _has_cuda() -> bool:
    """Return whether torch can use CUDA; without a driver torch is not asked."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()

"""Names of a package that are imported at first use, so that a process that needs none of them does not pay for their modules.

A replica and most commands use packages that trainers use too, and do without torch: its import takes 2 CPU seconds and 470 MB. Those of
Arrow take 0.1 s and 35 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for `package` that takes each name in `modules` from the module given there.

    Raises:
        AttributeError: a name is not in `modules`.

    >>> lazy_exports("monolith_py", {"Decimal": "decimal"})("Decimal")("0.50")
    Decimal('0.50')
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load

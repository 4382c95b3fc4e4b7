"""The command `monolith`: processes of a job and tools, one module for each group of `monolith --help`."""

from monolith_py.cli.commands import app, main

__all__ = ["app", "main"]

"""Run the command line: `python -m monolith_py.cli`."""

from monolith_py.cli import main

main()

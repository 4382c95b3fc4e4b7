"""All fuzzers, one after the other: each prints its counts, and ends with an error at the first fault.

python tests/fuzz/run.py SECONDS      time for each fuzzer
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(seconds: float) -> None:
    """Run every fuzz_*.py of this folder for `seconds`, each in a process of its own, and end one that hangs."""
    for fuzzer in sorted(FOLDER.glob("fuzz_*.py")):
        print(f"{fuzzer.stem}, {seconds:.0f} s", flush=True)
        code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {fuzzer.stem}; {fuzzer.stem}.main({seconds})"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=2 * seconds + 300)


if __name__ == "__main__":
    main(float(sys.argv[1]))

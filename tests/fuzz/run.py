"""All fuzzers, one after the other: each prints its counts, and ends with an error at the first fault.

python tests/fuzz/run.py SECONDS [SEED]      time for each fuzzer; without a seed a random one, which is printed
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(seconds: float, seed: int) -> None:
    """Run every fuzz_*.py of this folder for `seconds`, each in a process of its own, and end one that hangs."""
    for fuzzer in sorted(FOLDER.glob("fuzz_*.py")):
        print(f"{fuzzer.stem}, {seconds:.0f} s, seed {seed}", flush=True)
        code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {fuzzer.stem}; {fuzzer.stem}.main({seconds}, seed={seed})"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=2 * seconds + 300)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6))

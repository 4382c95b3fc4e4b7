"""Run clang-tidy, with the rules of .clang-tidy, over the core, its bindings and the native tests:

    .venv/bin/python tests/cpp/tidy.py [FILE ...]

Needs cmake, ninja, clang-tidy and nanobind beside this Python; configures build/tidy, builds nothing, fails on any finding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nanobind

SOURCE = Path(__file__).resolve().parent
BUILD = SOURCE.parents[1] / "build" / "tidy"
TOOLS = Path(sys.executable).parent


def configure() -> list[str]:
    """Write the compile commands; return the sources."""
    includes = f"{nanobind.include_dir()};{sysconfig.get_path('include')}"
    options = [f"-DCMAKE_MAKE_PROGRAM={TOOLS / 'ninja'}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", f"-DPYTHON_INCLUDES={includes}"]
    command = [str(TOOLS / "cmake"), "-S", str(SOURCE), "-B", str(BUILD), "-G", "Ninja", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    return sorted({command["file"] for command in commands})


def check(source: str) -> str:
    """Return the findings in one source and its headers, '' where there are none."""
    command = [str(TOOLS / "clang-tidy"), "-p", str(BUILD), "--quiet", source]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout or done.stderr


def main() -> int:
    sources = configure()
    if len(sys.argv) > 1:
        named = {str(Path(name).resolve()) for name in sys.argv[1:]}
        sources = [source for source in sources if source in named]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = [found for found in pool.map(check, sources) if found]
    for found in findings:
        print(found)
    print(f"clang-tidy: {len(sources)} sources, findings in {len(findings)}")
    return 1 if findings or not sources else 0


if __name__ == "__main__":
    sys.exit(main())

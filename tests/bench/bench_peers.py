"""Serving beside published figures and other servers. A client shares the machine with each server."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from figures import print_machine
from serve_contest import bench_contest
from serve_http import bench_http
from serve_pairs import bench_pairs


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load test; several for each figure")
    parser.add_argument("--quick", action="store_true", help="small tables and loads of half a second: values mean nothing")
    parser.add_argument("--only", choices=("pairs", "contest", "http"), help="print one group of figures")
    options = parser.parse_args()
    seconds = 0.5 if options.quick else options.seconds
    torch.set_num_threads(1)
    print_machine(1)
    generator = np.random.default_rng(0)
    benches: dict[str, Callable[[], None]] = {
        "pairs": lambda: bench_pairs(generator, seconds, 2_000 if options.quick else 40_000),
        "contest": lambda: bench_contest(generator, seconds, 5_000 if options.quick else 100_000),
        "http": lambda: bench_http(generator, seconds),
    }
    for name, bench in benches.items():
        if options.only in (None, name):
            bench()


if __name__ == "__main__":
    main()

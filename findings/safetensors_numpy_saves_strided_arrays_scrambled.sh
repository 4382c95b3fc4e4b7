#!/usr/bin/env bash
# safetensors 0.8.0, safetensors.numpy: an array that is not C-contiguous is saved as its memory lies, and reads back with other values.
#
# A transposed weight (`weight.T`, as a layer kept in (inputs, outputs) gives), a slice of columns or a Fortran-ordered array has the right
# shape and dtype in the file, and its elements in another order. The docstring says "need to be contiguous and dense", but neither `save`,
# `save_file` nor `load` raises or warns, so a model exported from numpy this way loads without an error and scores nonsense. The torch side
# of the same package refuses such a tensor: "You are trying to save a non contiguous tensor". Call `np.ascontiguousarray` first (it makes
# a 0-d array 1-d; `np.asarray(x, order="C")` does not).
#
# Output seen, 2026-11-30, numpy 2.4.6:
#   transposed:      [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]] -> [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#   Fortran order:   [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] -> [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]
#   every second column: [[0.0, 2.0], [3.0, 5.0]] -> [[0.0, 1.0], [2.0, 3.0]]
#   contiguous copy: [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]] -> [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q safetensors==0.8.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, load_file, save, save_file

whole = np.arange(6, dtype=np.float32).reshape(2, 3)
cases = {
    "transposed": whole.T,
    "Fortran order": np.asfortranarray(whole),
    "every second column": whole[:, ::2],
    "contiguous copy": np.ascontiguousarray(whole.T),
}
for name, array in cases.items():
    save_file({"weight": array}, "weights.safetensors")
    read = load_file("weights.safetensors")["weight"]
    assert np.array_equal(read, load(save({"weight": array}))["weight"])
    assert read.shape == array.shape and read.dtype == array.dtype
    print(f"{name + ':':16s} {array.tolist()} -> {read.tolist()}")
    assert np.array_equal(read, array) == (name == "contiguous copy"), name
PYTHON

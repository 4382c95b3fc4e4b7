#!/usr/bin/env bash
# safetensors 0.8.0: the same tensors with the same metadata give other bytes in each process.
#
# The header is JSON text. Tensors stand in it in a fixed order, but the metadata are kept in a hash map with a seed drawn at random, and are
# written in the order of that map. With two keys or more, the file of the same model therefore has another checksum each time, and the same
# length; with none or one key it is reproducible. Whoever names checkpoints by a digest of the file, skips the upload of an object whose
# checksum is known, or compares two replicas by file, sees changes where there are none. Reading gives equal values: compare those.
#
# Output seen, 2026-11-30:
#   0 keys of metadata: 1 checksums of 6 processes, 104 bytes; tensors equal
#   1 keys of metadata: 1 checksums of 6 processes, 128 bytes; tensors equal
#   2 keys of metadata: 2 checksums of 6 processes, 144 bytes; tensors equal
#   8 keys of metadata: 6 checksums of 6 processes, 208 bytes; tensors equal
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q safetensors==0.8.0 numpy==2.4.6
cd "$work"
cat > save.py <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import save_file

num_keys = int(sys.argv[1])
metadata = {f"key{number}": "v" for number in range(num_keys)} or None
save_file({"tower.weight": np.arange(6, dtype=np.float32)}, sys.argv[2], metadata)
PYTHON
"$work/venv/bin/python" - <<'PYTHON'
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

NUM_RUNS = 6
distinct = {}
for num_keys in (0, 1, 2, 8):
    checksums, lengths, equal = set(), set(), True
    for run in range(NUM_RUNS):
        path = Path(f"{num_keys}-{run}.safetensors")
        subprocess.run([sys.executable, "save.py", str(num_keys), str(path)], check=True)
        content = path.read_bytes()
        checksums.add(hashlib.sha256(content).hexdigest())
        lengths.add(len(content))
        equal = equal and np.array_equal(load_file(path)["tower.weight"], np.arange(6, dtype=np.float32))
    distinct[num_keys] = len(checksums)
    assert equal and len(lengths) == 1
    print(f"{num_keys} keys of metadata: {len(checksums)} checksums of {NUM_RUNS} processes, {lengths.pop()} bytes; tensors equal")
assert distinct[0] == distinct[1] == 1, "reproducible without metadata"
assert distinct[8] >= 4, "8 keys: 40,320 orders"
PYTHON

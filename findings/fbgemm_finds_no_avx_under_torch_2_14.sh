#!/usr/bin/env bash
# fbgemm-gpu-cpu 1.9.0 with torch 2.14.0 or 2.14.1, the torch it is built for: FBGEMM finds no AVX2 or AVX-512 on any x86-64 processor and
# pools embeddings in plain loops, 10 to 60 times slower. Nothing warns, and results are right.
#
# Both ask the library cpuinfo what the processor can do. torch's wheel for Linux carries it twice since 2.14, in libc10.so and in
# libtorch.so, each with its own copy of the flags `cpuinfo_isa`. The loader binds all of torch, libc10's own start-up code too, to
# libtorch's copy, which is filled. fbgemm.so names libc10.so first among what it needs and is bound to that copy, which stays zero. So
# fbgemm::fbgemmHasAvx2Support() is false, the reference kernels are taken, and FBGEMM_ENABLE_INSTRUCTIONS does not help. torch itself is
# not touched. torch 2.13.0 with fbgemm-gpu-cpu 1.8.0 has one copy and is fast. Ways out: TORCH_USE_RTLD_GLOBAL=1 in the environment, as
# below, or, without making all of torch's symbols global, copying libtorch's flags to libc10's by ctypes.
#
# Output seen on an AMD EPYC with AVX-512, 2026-11-30 (microseconds to pool 2,048 bags of 4 rows of 32 weights, one thread):
#   as it is:                 AVX2 False, fp32 932, fp16 1211, int8 618
#   TORCH_USE_RTLD_GLOBAL=1:  AVX2 True, fp32 42, fp16 33, int8 38
#
# Exit status 0 while the behaviour is as described, else non-zero. Needs an x86-64 processor with AVX2.
set -euo pipefail
grep -qw avx2 /proc/cpuinfo || { echo "this processor has no AVX2" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.14.1 fbgemm-gpu-cpu==1.9.0 numpy==2.4.6
cd "$work"
cat > pool.py <<'PYTHON'
import ctypes
import sys
import time
from pathlib import Path

import fbgemm_gpu
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

ROWS, DIM, BAGS, PER_BAG = 100_000, 32, 2048, 4
torch.set_num_threads(1)
ids = torch.randint(ROWS, (BAGS * PER_BAG,), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
offsets = torch.arange(0, BAGS * PER_BAG + 1, PER_BAG, dtype=torch.int32)
micros = {}
for encoding in (SparseType.FP32, SparseType.FP16, SparseType.INT8):
    table = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("rows", ROWS, DIM, encoding, EmbeddingLocation.HOST)],
        device=torch.device("cpu"),
        output_dtype=SparseType.FP32,
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    table.fill_random_weights()
    times = []
    for _ in range(50):
        start = time.perf_counter()
        table(ids, offsets)
        times.append(time.perf_counter() - start)
    micros[encoding.value] = min(times) * 1e6
has_avx2 = ctypes.CDLL(str(Path(fbgemm_gpu.__file__).parent / "fbgemm.so"))["_ZN6fbgemm20fbgemmHasAvx2SupportEv"]
has_avx2.restype = ctypes.c_bool
print(f"AVX2 {has_avx2()},", ", ".join(f"{name} {value:.0f}" for name, value in micros.items()))
print(int(has_avx2()), *map(round, micros.values()), file=open(sys.argv[1], "w"))
PYTHON
printf 'as it is:                 '
"$work/venv/bin/python" -W ignore pool.py as_it_is
printf 'TORCH_USE_RTLD_GLOBAL=1:  '
TORCH_USE_RTLD_GLOBAL=1 "$work/venv/bin/python" -W ignore pool.py global
read -r avx2_slow slow _ < as_it_is
read -r avx2_fast fast _ < global
[[ $avx2_slow == 0 && $avx2_fast == 1 ]] && ((slow > 4 * fast))

#!/usr/bin/env bash
# fbgemm-gpu-cpu 1.9.0 (torch 2.14.1): on the CPU stochastic_rounding, on by default, does nothing to fp16 tables; small steps are lost.
#
# SplitTableBatchedEmbeddingBagsCodegen documents `stochastic_rounding (bool = True)`: "apply stochastic rounding for weight type that is
# not SparseType.FP32". With tables in host memory and ComputeDevice.CPU it is accepted and ignored without a warning: True and False give
# the same bits, and both round to nearest. A step of less than half the distance to the next fp16 number (2.4e-4 just under 1.0) never
# moves a weight, however often it is made: 1,000 steps of 1e-4 are worth 0, not 0.1. So an fp16 table that learns on the CPU comes to a
# stop once its learning rate or its gradients have become small, sooner for large weights than for small ones, and no loss is NaN and
# nothing warns.
#
# Output seen, 2026-11-29 (mean of 4,096 weights that start at 1.0, after 1,000 SGD steps of 1e-4 down; 0.9 is right):
#   fp32, stochastic_rounding=True:  0.90000
#   fp32, stochastic_rounding=False: 0.89998
#   fp16, stochastic_rounding=True:  1.00000
#   fp16, stochastic_rounding=False: 1.00000
#   fp16, random gradients, True and False: the same bits
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.14.1 fbgemm-gpu-cpu==1.9.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor

ROWS, DIM = 64, 64
IDS, OFFSETS = torch.arange(ROWS), torch.arange(ROWS + 1)  # every row, in a bag of its own


def after(precision: SparseType, stochastic: bool, gradients: list[Tensor], lr: float) -> Tensor:
    """Return the weights, which start at 1.0, after one SGD step for each of the gradients."""
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        weights_precision=precision,
        stochastic_rounding=stochastic,
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=lr,
        device=torch.device("cpu"),
    )
    (weights,) = table.split_embedding_weights()
    weights.fill_(1.0)
    for gradient in gradients:
        table(IDS, OFFSETS).backward(gradient)
    return weights.float().clone()


means = {}
for precision in (SparseType.FP32, SparseType.FP16):
    for stochastic in (True, False):
        means[precision, stochastic] = after(precision, stochastic, [torch.ones(ROWS, DIM)] * 1000, 1e-4).mean().item()
        print(f"{precision.value}, {f'stochastic_rounding={stochastic}:':26s} {means[precision, stochastic]:.5f}")
noise = list(torch.randn(20, ROWS, DIM, generator=torch.Generator().manual_seed(1)))
with_rounding, without = (after(SparseType.FP16, stochastic, noise, 1e-2) for stochastic in (True, False))
same = torch.equal(with_rounding, without)
print(f"fp16, random gradients, True and False: {'the same bits' if same else 'different'}")
assert not torch.equal(with_rounding, torch.ones(ROWS, DIM))
assert same
assert abs(means[SparseType.FP32, True] - 0.9) < 1e-3
assert means[SparseType.FP16, True] == 1.0
PYTHON

#!/usr/bin/env bash
# torchrec 1.9.2 (torch 2.14.1, CPU): AUC ranks equal predictions by their order instead of counting a tie as half.
#
# A model that predicts 0.5 for everything has AUC 1.0 if the two positives of four examples came first and 0.0 if they came last; it
# should be 0.5. The metric sorts by prediction and draws the ROC curve through every single example, also within a run of equal
# predictions. Its documentation does not say so. Up to 16 examples torch's sort keeps the order of equals; above that it shuffles them,
# always in the same way, which does not mend it: 10,000 equal predictions give 0.33 or 0.67. It matters where predictions take few values
# (a model just begun, buckets, a baseline by category, a rounded score) and the order of the examples goes with the label, as in a log
# whose positives are written when the action comes and whose negatives when the window closes. Predictions of bf16 or finer, which differ
# enough, are right to 0.0001. Counting pairs, as below, gives the same AUC for any order, and so does scikit-learn's roc_auc_score.
#
# Output seen, 2026-11-29:
#   4 equal predictions, positives first:       AUC 1.0000, by pairs 0.5000
#   4 equal predictions, positives last:        AUC 0.0000, by pairs 0.5000
#   10,000 equal predictions, positives first:  AUC 0.3326, by pairs 0.5000
#   10,000 equal predictions, positives last:   AUC 0.6669, by pairs 0.5000
#   click rates to 0.05, positives first:       AUC 0.4837, by pairs 0.5876
#   click rates to 0.05, positives last:        AUC 0.6948, by pairs 0.5876
#   click rates in fp32, positives first:       AUC 0.6314, by pairs 0.6314
#   click rates in fp32, positives last:        AUC 0.6314, by pairs 0.6314
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check install -q)
"${pip[@]}" torch==2.14.1 fbgemm-gpu-cpu==1.9.0 tensordict==0.15.3 torchmetrics==1.0.3 tqdm==4.70.1 pyre-extensions==0.0.32 numpy==2.4.6
"${pip[@]}" --no-deps torchrec==1.9.2 # its metadata names the CUDA build of fbgemm-gpu
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import Tensor
from torchrec.metrics.auc import AUCMetric
from torchrec.metrics.metrics_config import DefaultTaskInfo


def auc(predictions: Tensor, labels: Tensor) -> float:
    metric = AUCMetric(world_size=1, my_rank=0, batch_size=len(labels), tasks=[DefaultTaskInfo], window_size=len(labels))
    name = DefaultTaskInfo.name
    metric.update(predictions={name: predictions}, labels={name: labels}, weights={name: torch.ones_like(labels)})
    (value,) = metric.compute().values()
    return value.item()


def by_pairs(predictions: Tensor, labels: Tensor) -> float:
    """Return the chance that a positive is predicted higher than a negative, a tie being worth one half."""
    positives, negatives = predictions[labels == 1, None].double(), predictions[labels == 0].double()
    return ((positives > negatives).double() + 0.5 * (positives == negatives).double()).mean().item()


generator = torch.Generator().manual_seed(1)
rates = torch.sigmoid(torch.randn(10_000, generator=generator) * 0.45 - 3)  # click rates of about 5 %
clicks = torch.bernoulli(rates, generator=generator)
cases = {
    "4 equal predictions": (torch.full((4,), 0.5), torch.tensor([1.0, 1.0, 0.0, 0.0])),
    "10,000 equal predictions": (torch.full_like(rates, 0.5), clicks),
    "click rates to 0.05": ((rates * 20).round() / 20, clicks),
    "click rates in fp32": (rates, clicks),
}
errors: dict[str, list[float]] = {}
for what, (predictions, labels) in cases.items():
    right = by_pairs(predictions, labels)
    for order, descending in (("positives first", True), ("positives last", False)):
        index = torch.argsort(labels, descending=descending, stable=True)
        found = auc(predictions[index], labels[index])
        errors.setdefault(what, []).append(found - right)
        print(f"{f'{what}, {order}:':43s} AUC {found:.4f}, by pairs {right:.4f}")
assert errors["4 equal predictions"] == [0.5, -0.5]
assert all(abs(error) > 0.05 for error in errors["10,000 equal predictions"] + errors["click rates to 0.05"])
assert all(abs(error) < 0.0005 for error in errors["click rates in fp32"])
PYTHON

#!/usr/bin/env bash
# river 0.26.1: ROCAUC of calibrated click rates of 2 % is near 0.5, and ranks a worse model above a better one.
#
# The metric counts hits at ten thresholds of the probability, evenly spread over 0 to 1, and joins these points by lines. Where clicks are
# rare nearly all predictions of a calibrated model are below the first threshold above 0, 0.11, and what they rank within it does not count.
# Its documentation says that the error does not matter while the predictions are calibrated, and that models can be compared in any case.
# Neither holds: the best possible predictions get 0.54 instead of 0.76, and a model with noise on its logits, which are too high by 2,
# gets 0.65. 1,000 thresholds are right to 0.002. RollingROCAUC, with a window of the whole stream, is exact.
#
# Output seen, 2026-11-30:
#   calibrated, label rate 0.0172:  ROCAUC() 0.5357, 1,000 thresholds 0.7549, rolling 0.7550, by pairs 0.7550
#   noisy and too high:             ROCAUC() 0.6480, 1,000 thresholds 0.6665, rolling 0.6665, by pairs 0.6665
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q river==0.26.1 numpy==2.4.6 scikit-learn==1.9.1
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from numpy.typing import NDArray
from river import metrics
from sklearn.metrics import roc_auc_score

NUM = 50_000
generator = np.random.default_rng(1)
logits = generator.normal(-4.5, 1.0, NUM)
rates = 1 / (1 + np.exp(-logits))
clicks = generator.random(NUM) < rates


def found(metric: metrics.base.Metric, predictions: NDArray[np.float64]) -> float:
    for click, prediction in zip(clicks.tolist(), predictions.tolist(), strict=True):
        metric.update(click, prediction)
    return float(metric.get())


noisy = logits + 2 + generator.normal(0, 1.25, NUM)
models = {
    f"calibrated, label rate {clicks.mean():.4f}:": rates,
    "noisy and too high:": 1 / (1 + np.exp(-noisy)),
}
default, exact = [], []
for name, predictions in models.items():
    default.append(found(metrics.ROCAUC(), predictions))
    fine = found(metrics.ROCAUC(n_thresholds=1_000), predictions)
    rolling = found(metrics.RollingROCAUC(window_size=NUM), predictions)
    exact.append(float(roc_auc_score(clicks, predictions)))
    print(f"{name:31s} ROCAUC() {default[-1]:.4f}, 1,000 thresholds {fine:.4f}, rolling {rolling:.4f}, by pairs {exact[-1]:.4f}")
    assert abs(fine - exact[-1]) < 0.003 and abs(rolling - exact[-1]) < 1e-6
assert default[0] < 0.56 and exact[0] > 0.75, "a calibrated model of rare clicks is near 0.5"
assert default[1] > default[0] + 0.05 and exact[1] < exact[0] - 0.05, "and behind a worse one"
PYTHON

#!/usr/bin/env bash
# Vowpal Wabbit 9.11.9: ids of the Snowflake kind share one weight, so a model of them learns nothing.
#
# By default VW hashes the names of features, but a name of digits only is taken as the number itself plus the hash of the namespace, and
# the index of its weight is the low 18 bits. Ids as many services give them out (milliseconds shifted left by 22 bits, beside a worker and
# a counter that are mostly 0) agree in these bits. Text hashing of 1,000 such ids into 2^18 weights would cost 2 of them by collision; here
# one weight is left, without a warning. With -b 24, the usual cure for collisions, four weights are. A letter before the id or
# "--hash all" cures it. It matters wherever VW is the baseline of a comparison: the gap to it is then the id, not the model.
#
# Output seen, 2026-11-30 (progressive AUC of clicks whose rate depends on the item alone):
#   digits, -b 18              1 weights of 1,000 items, AUC 0.500
#   digits, -b 24              4 weights of 1,000 items, AUC 0.506
#   letter and digits, -b 18 997 weights of 1,000 items, AUC 0.777
#   digits, --hash all       998 weights of 1,000 items, AUC 0.777
#   best possible AUC 0.810
#
# Exit status 0 while the behaviour is as described, else non-zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q vowpalwabbit==9.11.9 numpy==2.4.6 scikit-learn==1.9.1
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from sklearn.metrics import roc_auc_score
from vowpalwabbit import Workspace

NUM_ITEMS, NUM_EVENTS = 1_000, 40_000
generator = np.random.default_rng(1)
# One id every 37 ms or so from November 2023, worker 0 and counter 0.
ids = [(1_700_000_000_000 + 37 * number) << 22 for number in range(NUM_ITEMS)]
rates = 1 / (1 + np.exp(-generator.normal(0, 1.5, NUM_ITEMS)))
items = generator.integers(0, NUM_ITEMS, NUM_EVENTS)
clicks = generator.random(NUM_EVENTS) < rates[items]
best = roc_auc_score(clicks, rates[items])


def learn(title: str, options: str, prefix: str) -> tuple[int, float]:
    vw = Workspace(f"--quiet --loss_function logistic --link logistic {options}")
    names = [f"{prefix}{one}" for one in ids]
    predictions = []
    for item, click in zip(items.tolist(), clicks.tolist(), strict=True):
        predictions.append(vw.predict(f"|item {names[item]}"))
        vw.learn(f"{1 if click else -1} |item {names[item]}")
    weights = {vw.parse(f"|item {name}").feature("item", 0) for name in names}
    auc = roc_auc_score(clicks, predictions)
    print(f"{title:24s} {len(weights):3d} weights of {NUM_ITEMS:,} items, AUC {auc:.3f}")
    return len(weights), float(auc)


narrow = learn("digits, -b 18", "-b 18", "")
wide = learn("digits, -b 24", "-b 24", "")
letter = learn("letter and digits, -b 18", "-b 18", "i")
hashed = learn("digits, --hash all", "-b 18 --hash all", "")
print(f"best possible AUC {best:.3f}")
assert narrow[0] == 1 and wide[0] <= 8 and max(narrow[1], wide[1]) < 0.53, "ids of digits share weights"
assert min(letter[0], hashed[0]) > 950 and min(letter[1], hashed[1]) > best - 0.05, "hashed names do not"
PYTHON

"""DCN-V2 in plain torch: embeddings by numbered ids, torch's optimizers, no module of the project."""

from __future__ import annotations

import time

import numpy as np
import torch
from intervals import resampled_aucs
from models_variants import TOWER, ModelVariant
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tower_passes import TowerOutcome
from tower_streams import TowerStream

from monolith_py.training import auc, normalized_entropy

PLAIN = ModelVariant("DCN-V2, 3 full layers, stacked, plain torch")
_NUM_CROSS = 3
_INIT = 0.01  # half the width of the rows' start values, as in a job


class PlainDcn(nn.Module):
    """Cross layers, then a tower."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(_NUM_CROSS))
        widths = [width, *TOWER]
        layers = [layer for pair in zip(widths[:-1], TOWER, strict=True) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.tower = nn.Sequential(*layers, nn.Linear(TOWER[-1], 1))

    def forward(self, first: Tensor) -> Tensor:
        crossed = first
        for layer in self.cross:
            crossed = first * layer(crossed) + crossed
        logits: Tensor = self.tower(crossed)
        return logits.squeeze(1)


def learn_plain(stream: TowerStream, seed: int) -> TowerOutcome:
    """Return what one pass gives; every feature must have one fid in each example."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    job = stream.job({}, seed)
    ids = np.stack([np.unique(column.fids, return_inverse=True)[1] for column in stream.features.values()], axis=1)  # (n, F)
    starts = np.r_[0, np.cumsum(ids.max(axis=0) + 1)]
    places = torch.from_numpy(ids + starts[:-1])
    dim = job.features[0].dim
    rows = nn.Embedding(int(starts[-1]), dim, sparse=True)
    nn.init.uniform_(rows.weight, -_INIT, _INIT)
    model = PlainDcn(dim * ids.shape[1])
    of_rows = torch.optim.Adagrad(
        rows.parameters(), lr=job.optimizer.sparse.lr, initial_accumulator_value=job.optimizer.sparse.initial_accumulator
    )
    of_model = torch.optim.Adam(model.parameters(), lr=job.optimizer.dense.lr)
    predictions, step_s = np.empty(len(stream), np.float32), []
    began_s = time.thread_time()
    for start in range(0, len(stream), stream.batch_size):
        batch = places[start : start + stream.batch_size]
        labels = torch.from_numpy(stream.labels[start : start + len(batch)])
        pooled = rows(batch).flatten(1)
        seen = pooled.detach().requires_grad_()
        step_began_s = time.thread_time()
        logits = model(seen)
        loss = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        of_model.zero_grad()
        of_rows.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad /= len(batch)
        of_model.step()
        step_s.append(time.thread_time() - step_began_s)
        pooled.backward(seen.grad)
        of_rows.step()
        predictions[start : start + len(batch)] = torch.sigmoid(logits.detach()).numpy()
    whole_s = time.thread_time() - began_s
    spans = [slice(start, end) for _, start, end in stream.spans]
    return TowerOutcome(
        PLAIN.name,
        seed,
        tuple(auc(stream.labels[span], predictions[span]) for span in spans),
        tuple(normalized_entropy(stream.labels[span], predictions[span]) for span in spans),
        resampled_aucs(stream.labels[spans[-1]], predictions[spans[-1]], stream.groups[spans[-1]]),
        np.empty(0, np.float32),
        sum(parameter.numel() for parameter in model.parameters()),
        1.0,
        (),
        None,
        sum(step_s),
        1000 * float(np.mean(step_s[len(step_s) // 2 :])),
        whole_s,
        stream.num_steps,
    )

"""Ranking server of the kind that a user would write first: FastAPI around a DeepFM of plain torch.

Run in a virtual environment of its own, as `http_fastapi.py PORT FOLDER`.
`FOLDER/model.npz` holds the weights, and the row numbers of the features of each user and item. JSON in, JSON out; nothing is logged.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fastapi
import numpy as np
import pydantic
import torch
import uvicorn
from fastapi.responses import JSONResponse
from torch import nn


class Model(nn.Module):
    """DeepFM over row numbers, one in a bag, in fp32. Letters: n candidates, F features, D their dim."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        stored = np.load(folder / "model.npz")
        self.users, self.items = stored["users"], stored["items"]  # row numbers (users, F of the user), (items, F of the item)
        rows = torch.from_numpy(stored["rows"])
        self.num_features, self.dim = self.users.shape[1] + self.items.shape[1], rows.shape[1]
        self.bags = nn.EmbeddingBag.from_pretrained(rows, mode="sum")
        layers: list[nn.Module] = []
        for place in range(int(stored["num_layers"])):
            weight, bias = (torch.from_numpy(stored[f"{kind}{place}"]) for kind in ("weight", "bias"))
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.weight.data, layer.bias.data = weight, bias
            layers += [nn.ReLU()] * bool(layers) + [layer]
        self.tower = nn.Sequential(*layers)
        self.scales = torch.from_numpy(stored["scales"])

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the probability of each task, (n, tasks), for row numbers (n, F)."""
        pooled = self.bags(numbers.reshape(-1, 1)).view(-1, self.num_features, self.dim)  # (n, F, D)
        factors = pooled[:, :, 1:]
        pairs = (factors.sum(1).square() - factors.square().sum(1)).sum(1) / 2
        shallow = torch.stack((pooled[:, :, 0].sum(1), pairs), 1)
        return torch.sigmoid(self.tower(pooled.flatten(1)) + shallow @ self.scales)

    @torch.inference_mode()
    def rank(self, user_id: int, item_ids: list[int]) -> list[list[float]]:
        """Return the scores of one request."""
        return self.forward(torch.from_numpy(self.numbers(user_id, item_ids))).tolist()

    def numbers(self, user_id: int, item_ids: list[int]) -> np.ndarray:
        """Return the row numbers of the candidates of one request, (n, F)."""
        items = self.items[item_ids]
        return np.concatenate((np.broadcast_to(self.users[user_id], (len(items), self.users.shape[1])), items), axis=1)


class Ask(pydantic.BaseModel):
    """One request."""

    user_id: int
    item_ids: list[int]


def run(model: Model, port: int) -> None:
    """Serve on uvicorn with uvloop and httptools, one process, the model in the event loop: the fastest way for short calls."""
    app = fastapi.FastAPI()

    @app.post("/predict", response_model=None)
    async def predict(ask: Ask) -> JSONResponse:
        return JSONResponse({"scores": model.rank(ask.user_id, ask.item_ids)})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def main() -> None:
    """Serve until killed."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    run(Model(folder), port)


if __name__ == "__main__":
    main()

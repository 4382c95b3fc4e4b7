"""The model of `http_fastapi` behind LitServe: `http_litserve.py PORT FOLDER MAX_BATCH`; 1 is one request at a time.

LitServe starts its worker in a process of its own and sends it the API as a pickle, so the classes cannot be local.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch
from http_fastapi import Model

_BATCH_TIMEOUT_S = 0.002


class RankApi(litserve.LitAPI):
    """Ranks one request at a time."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self._folder = folder

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        torch.set_num_threads(1)
        self.model = Model(self._folder)

    def decode_request(self, request) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Return row numbers (n, F). An annotated `request` would be read from the URL."""
        return self.model.numbers(request["user_id"], request["item_ids"])

    @torch.inference_mode()
    def predict(self, numbers: np.ndarray) -> list[list[float]]:
        """Return scores (n, tasks)."""
        return self.model(torch.from_numpy(numbers)).tolist()

    def encode_response(self, scores: list[list[float]]) -> dict[str, Any]:
        """Return the answer."""
        return {"scores": scores}


class BatchApi(RankApi):
    """Ranks the requests that wait together."""

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Leave the requests apart: they differ in length."""
        return inputs

    @torch.inference_mode()
    def predict(self, inputs: list[np.ndarray]) -> list[list[list[float]]]:
        """Return the scores of each request."""
        scores = self.model(torch.from_numpy(np.concatenate(inputs)))
        return [part.tolist() for part in scores.split([len(one) for one in inputs])]

    def unbatch(self, output: list[list[list[float]]]) -> list[list[list[float]]]:
        """Leave the answers as they are: one for each request."""
        return output


def main() -> None:
    """Serve until killed."""
    port, folder, max_batch = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    api = BatchApi(folder, max_batch_size=max_batch, batch_timeout=_BATCH_TIMEOUT_S) if max_batch > 1 else RankApi(folder)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", access_log=False, generate_client_file=False)


if __name__ == "__main__":
    main()

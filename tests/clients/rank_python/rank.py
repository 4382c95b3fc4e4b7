"""Ranks candidates with plain gRPC: TLS, a token, a deadline, tries, pings, several replicas in turn.

    python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. monolith/v1/example.proto monolith/v1/ranking.proto
    RANK_TOKEN=... python rank.py dns:///replicas.example:50051 ca.pem

The package has a client of its own: monolith_serving.client.RankClient.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import grpc
from monolith.v1 import example_pb2, ranking_pb2, ranking_pb2_grpc

# A call under one request id may be tried again: it makes one impression.
POLICY = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "monolith.v1.Ranking"},
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 1.0},
}
# The server allows one ping in 10 s.
OPTIONS = [
    ("grpc.service_config", json.dumps(POLICY)),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def main(target: str, ca_file: str) -> None:
    """Rank three candidates at the replicas `target` and print the best two as JSON."""
    request = ranking_pb2.RankRequest(
        request_id="from-python",
        user_id=-7,
        item_ids=[11, (1 << 63) - 1, -(1 << 63)],
        context=example_pb2.FeatureColumns(sparse=[example_pb2.SparseColumn(name="tab", fids=[5, 6], lengths=[2])]),
        candidate_features=example_pb2.FeatureColumns(
            sparse=[example_pb2.SparseColumn(name="position", fids=[0, 1, 2])],
            dense=[example_pb2.DenseColumn(name="price", values=[0.5, 1.5, 2.5])],
        ),
        top_k=2,
        rank_by="click",
        return_features=["tags"],
    )
    credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    with grpc.secure_channel(target, credentials, options=OPTIONS) as channel:
        token = [("authorization", f"Bearer {os.environ['RANK_TOKEN']}")]
        answer = ranking_pb2_grpc.RankingStub(channel).Rank(request, timeout=20.0, metadata=token)
    tags = {column.name: list(column.fids) for column in answer.candidate_features.sparse}
    fields = ("request_id", "candidates", "scores", "task_names", "model_version")
    values = {name: getattr(answer, name) for name in fields}
    print(json.dumps({name: value if isinstance(value, str) else list(value) for name, value in values.items()} | {"features": tags}))


if __name__ == "__main__":
    main(*sys.argv[1:])

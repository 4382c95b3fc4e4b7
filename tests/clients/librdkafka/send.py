"""Sends actions with librdkafka, as clients in Go, .NET, Rust, Ruby and confluent-kafka do: `partitioner` must be set."""

from __future__ import annotations

import json
import sys

from confluent_kafka import Producer

from monolith_py.pb.example_pb2 import Action

servers, topic, *partitioner = sys.argv[1:]
settings = {"bootstrap.servers": servers, "acks": "all"}
producer = Producer(settings | {"partitioner": partitioner[0] if partitioner else "murmur2_random"})
for line in sys.stdin:
    one = json.loads(line)
    action = Action(**(one | {"item_id": int(one["item_id"])}))
    producer.produce(topic, action.SerializeToString(), key=one["request_id"].encode(), timestamp=one["time_ms"])
if producer.flush(30.0):
    sys.exit("records were not sent")

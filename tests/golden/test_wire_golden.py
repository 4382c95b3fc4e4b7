"""The bytes that other versions and other languages rely on, pinned in wire.json. Changing one is a decision that the commit names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, DeadLetter, Impression
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.forgetting import ForgetRequest
from monolith_py.io import codec
from monolith_py.pb import parameter_sync_pb2 as pb
from monolith_py.sync import (
    Delta,
    DenseDigest,
    DenseForm,
    DenseState,
    ModelDigest,
    Parent,
    RowEncoding,
    StepMark,
    apply_update,
    decode_delta,
    encode_delta,
    next_update,
    pack_rows,
)

GOLDEN = {name: bytes.fromhex(text) for name, text in json.loads(Path(__file__).with_name("wire.json").read_text()).items()}

USER = FeatureColumns(
    1,
    {"user": SparseColumn(np.array([-7], np.int64), np.array([1], np.int32)), "tags": SparseColumn.empty(1)},
    {"age": np.array([[0.5, -2.0]], np.float32)},
)
ITEMS = FeatureColumns(
    2,
    {
        "item": SparseColumn(np.array([2**63 - 1, -(2**63)], np.int64), np.array([1, 1], np.int32)),
        "tags": SparseColumn(np.array([3, 4, 5], np.int64), np.array([0, 3], np.int32)),
    },
    {"price": np.array([[1.25], [0.0]], np.float32)},
)
ACTION = Action("request-1", 2**63 - 1, "long_view", 1_649_000_000_000, 12.5)
IMPRESSION = Impression(
    request_id="request-1",
    time_ms=1_649_000_000_000,
    user_id=-7,
    item_ids=np.array([2**63 - 1, -(2**63)], np.int64),
    shared=USER,
    candidates=ITEMS,
    scores=np.array([[0.25, 0.75], [0.5, 1.0]], np.float32),
    task_names=("is_click", "long_view"),
    model_version="3.41",
)
EXAMPLES = ExampleBatch(
    request_ids=("request-1", "request-\u00e4"),
    item_ids=np.array([2**63 - 1, -(2**63)], np.int64),
    times_ms=np.array([1_649_000_000_000, 1], np.int64),
    kinds=np.array([0, 1], np.uint8),
    sample_rates=np.array([1.0, 0.25], np.float32),
    labels={"is_click": np.array([0, 1], np.float32), "long_view": np.array([0, 0], np.float32)},
    features=ITEMS,
)
ROWS = Delta(
    generation=3,
    seq=41,
    watermark_ms=1_649_000_000_000,
    published_ms=1_649_000_000_500,
    table="user",
    dim=4,
    encoding=RowEncoding.FP16,
    fids=np.array([-7, 2**63 - 1], np.int64),
    rows=pack_rows(np.array([[0.5, -2.0, 0.0, 1.0], [1.25, 0.0, 0.0, -1.0]], np.float32), RowEncoding.FP16),
    evicted=np.array([3], np.int64),
    steps=(StepMark(1_649_000_000_250, 2, 1_648_999_999_900),),
    trainer="trainer-0",
    parent=Parent(2, 40, 171),
    digest=ModelDigest(2**64 - 2, RowEncoding.FP16, DenseDigest(7, 2**32 - 1, RowEncoding.FP32)),
)

INT4_ROWS = replace(
    ROWS,
    dim=8,
    encoding=RowEncoding.INT4,
    rows=pack_rows(np.array([[0, 1, 2, 3, 4, 5, 6, 15], [-1.5, 0, 0, 0, 0, 0, 0, 1.5]], np.float32), RowEncoding.INT4),
    digest=ModelDigest(5, RowEncoding.FP16, None, {"user": RowEncoding.INT4, "\u00e4": RowEncoding.INT8}),
)


def dense(columns: list[list[int]], topology_version: int, first: float) -> DenseState:
    """Dense parameters of one sparse layer whose atoms, one output high, have the weights `first`, `first` + 1 and so on."""
    flat = torch.tensor([column for block in columns for column in block], dtype=torch.int32)
    return DenseState.of(
        {
            "layer.bounds": torch.tensor([0, *np.cumsum([len(block) for block in columns])], dtype=torch.int32),
            "layer.columns": flat,
            "layer.topology_version": torch.tensor(topology_version),
            "layer.values": first + torch.arange(len(flat), dtype=torch.float32)[:, None],
            "layer.bias": torch.tensor([0.5, -0.5]),
        }
    )


BEFORE = dense([[0, 3], [1, 300]], 6, 1.0)
SWAPPED = dense([[0, 2, 3], [300]], 7, -1.0)


def dense_delta(update) -> Delta:
    return Delta(3, 42, 1_649_000_000_000, 1_649_000_000_500, dense=update)


METADATA = {"joiner.seq": "12", "joiner.epoch": "1"}


def test_an_impression_has_the_pinned_bytes_and_they_mean_the_same() -> None:
    assert codec.encode_impression(IMPRESSION) == GOLDEN["impression"]
    assert codec.encode_impression(codec.decode_impression(GOLDEN["impression"])) == GOLDEN["impression"]
    decoded = codec.decode_impression(GOLDEN["impression"])
    assert (decoded.request_id, decoded.time_ms, decoded.user_id) == ("request-1", 1_649_000_000_000, -7)
    assert decoded.item_ids.tolist() == [2**63 - 1, -(2**63)]
    assert decoded.scores.tolist() == [[0.25, 0.75], [0.5, 1.0]]
    assert decoded.candidates.sparse["tags"].lengths.tolist() == [0, 3]
    assert decoded.shared.dense["age"].tolist() == [[0.5, -2.0]]
    assert (decoded.task_names, decoded.model_version) == (("is_click", "long_view"), "3.41")


def test_an_action_has_the_pinned_bytes_and_they_mean_the_same() -> None:
    assert codec.encode_action(ACTION) == GOLDEN["action"]
    assert codec.decode_action(GOLDEN["action"]) == ACTION


def test_stored_features_have_the_pinned_bytes_and_they_mean_the_same() -> None:
    assert codec.encode_features(USER) == GOLDEN["features"]
    decoded = codec.decode_features(GOLDEN["features"])
    assert decoded.sparse["user"].fids.tolist() == [-7]
    assert decoded.sparse["tags"].lengths.tolist() == [0]
    assert decoded.dense["age"].tolist() == [[0.5, -2.0]]


def test_a_dead_letter_has_the_pinned_bytes() -> None:
    value = codec.encode_dead_letter(DeadLetter("actions", 2, 17, b"\xff\x00", "action.kind must not be empty, got ''", 1_649_000_000_000))
    assert value == GOLDEN["dead_letter"]


def test_pinned_examples_mean_the_same() -> None:
    """Another release of Arrow may encode a record differently, but must read old records."""
    decoded = codec.decode_examples(GOLDEN["examples"])
    assert decoded.request_ids == EXAMPLES.request_ids
    for name in ("item_ids", "times_ms", "kinds", "sample_rates"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(EXAMPLES, name))
    assert {task: labels.tolist() for task, labels in decoded.labels.items()} == {"is_click": [0, 1], "long_view": [0, 0]}
    for name, column in ITEMS.sparse.items():
        np.testing.assert_array_equal(decoded.features.sparse[name].fids, column.fids)
        np.testing.assert_array_equal(decoded.features.sparse[name].lengths, column.lengths)
    assert decoded.features.dense["price"].tolist() == [[1.25], [0.0]]
    assert codec.examples_metadata(GOLDEN["examples"]) == METADATA


def test_a_delta_of_rows_has_the_pinned_bytes_and_they_mean_the_same() -> None:
    assert encode_delta(ROWS) == GOLDEN["delta_rows"]
    decoded = decode_delta(GOLDEN["delta_rows"])
    assert (decoded.generation, decoded.seq, decoded.table, decoded.dim, decoded.encoding) == (3, 41, "user", 4, RowEncoding.FP16)
    assert (decoded.fids.tolist(), decoded.evicted.tolist(), decoded.steps) == ([-7, 2**63 - 1], [3], ROWS.steps)
    assert decoded.rows.tobytes() == ROWS.rows.tobytes()
    assert (decoded.trainer, decoded.parent, decoded.digest) == (ROWS.trainer, ROWS.parent, ROWS.digest)


def test_a_delta_of_int4_rows_has_the_pinned_bytes_and_they_mean_the_same() -> None:
    assert encode_delta(INT4_ROWS) == GOLDEN["delta_int4_rows"]
    decoded = decode_delta(GOLDEN["delta_int4_rows"])
    assert (decoded.encoding, decoded.digest) == (RowEncoding.INT4, INT4_ROWS.digest)
    # Scale 1 and bias 0, then two levels a byte, the first in the low bits; scale 0.2 and bias -1.5.
    assert decoded.rows.tobytes().hex() == "003c0000103254f6663200be808888f8"


def test_updates_of_the_dense_state_have_the_pinned_bytes_and_they_mean_the_same() -> None:
    for name, state, encoding in (
        ("delta_dense_values", dense([[0, 3], [1, 300]], 6, 8.0), RowEncoding.FP16),
        ("delta_dense_swap", SWAPPED, RowEncoding.FP32),
    ):
        assert encode_delta(dense_delta(next_update(BEFORE, state, encoding))) == GOLDEN[name]
        update = decode_delta(GOLDEN[name]).dense
        assert update is not None and update.base == BEFORE.fingerprint
        assert_same(apply_update(BEFORE, update), state)


def test_pinned_full_dense_states_mean_the_same() -> None:
    """Another release of safetensors may encode its header differently, but must read old records."""
    update = decode_delta(GOLDEN["delta_dense_full"]).dense
    assert update is not None and update.form is DenseForm.FULL
    assert_same(apply_update(DenseState.of({}), update), SWAPPED)


def test_a_request_of_the_dense_state_has_the_pinned_bytes() -> None:
    request = pb.DenseRequest(job="shop", generation=3, seq=42, fingerprint=BEFORE.fingerprint)
    assert request.SerializeToString() == GOLDEN["dense_request"]


def test_a_request_to_forget_has_the_pinned_bytes_and_they_mean_the_same() -> None:
    request = ForgetRequest("user", (-7, 2**63 - 1), 1_649_000_000_000)
    assert codec.encode_forget_request(request) == GOLDEN["forget_request"]
    assert codec.decode_forget_request(GOLDEN["forget_request"]) == request


def assert_same(left: DenseState, right: DenseState) -> None:
    assert {name: tensor.tolist() for name, tensor in left.tensors.items()} == {
        name: tensor.tolist() for name, tensor in right.tensors.items()
    }

"""Served scores to and from columns of an Arrow record of examples: `score_<task>` float32, NaN for none, and `arm` and `model_version`.

Both texts are dictionary-encoded with the same codes, since a record has few models. All three are absent from a record without scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from monolith_py.data.columns import FloatArray, Int32Array
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.errors import WireError

TEXTS = ("arm", "model_version")
TEXT_TYPE = pa.dictionary(pa.int32(), pa.string())
SCORE_PREFIX = "score_"


def served_columns(served: ServedScores) -> dict[str, pa.Array]:
    """Return the columns of `served` by name."""
    codes = pa.array(served.model_codes)
    columns: dict[str, pa.Array] = {
        name: pa.DictionaryArray.from_arrays(codes, pa.array([model[place] for model in served.models], pa.string()))
        for place, name in enumerate(TEXTS)
    }
    return columns | {f"{SCORE_PREFIX}{task}": pa.array(scores) for task, scores in served.scores.items()}


def read_served(columns: Mapping[str, pa.Array], scores: Mapping[str, FloatArray]) -> ServedScores | None:
    """Return the served scores of a record's `columns`, None without them; `scores` are those by task.

    Raises:
        WireError: a column is absent, of the wrong type, or null.
    """
    given = [name for name in TEXTS if name in columns]
    if not given and not scores:
        return None
    if len(given) != len(TEXTS):
        raise WireError(f"examples must have columns {' and '.join(TEXTS)} beside served scores, got {given}")
    texts, codes = zip(*(_read_texts(name, columns[name]) for name in TEXTS), strict=True)
    if len(texts[0]) == len(texts[1]) and np.array_equal(codes[0], codes[1]):
        return ServedScores(scores, tuple(ServedModel(*pair) for pair in zip(*texts, strict=True)), codes[0])
    pairs, common = np.unique(np.stack(codes), axis=1, return_inverse=True)
    models = tuple(ServedModel(texts[0][arm], texts[1][version]) for arm, version in pairs.T.tolist())
    return ServedScores(scores, models, common.reshape(-1).astype(np.int32))


def _read_texts(name: str, column: pa.Array) -> tuple[list[str], Int32Array]:
    """Return the distinct texts of a column and the code of each row."""
    if column.type != TEXT_TYPE:
        raise WireError(f"examples.{name} must be of type {TEXT_TYPE}, got {column.type}")
    if column.null_count or column.dictionary.null_count:
        raise WireError(f"examples.{name} must have no null, got {column.null_count + column.dictionary.null_count}")
    return column.dictionary.to_pylist(), np.array(column.indices)

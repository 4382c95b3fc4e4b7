"""Rows of many records of examples stacked by the core, for the trainer: no array for each column of each record.

Letters: B examples, F sparse features of the job, W width of its dense ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeVar, overload

from monolith_py import _core
from monolith_py.data.columns import FloatArray, InputForm, SparseColumn, StackedColumns
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.errors import WireError
from monolith_py.io.codec.examples import decode_examples_record, encode_examples

# Rows [start, stop) of a record.
RecordRows = tuple[_core.ExampleRecord, int, int]
_Value = TypeVar("_Value")


def read_examples_record(value: bytes) -> tuple[_core.ExampleRecord, dict[str, str]]:
    """Return the record in `value`, without a copy of its columns, and the metadata given to `encode_examples`.

    Raises:
        WireError: as `decode_examples`.
    """
    record = _core.ExampleRecord.read(value)
    if record is not None:
        return record, record.metadata
    # It breaks a rule, or a writer of another kind made it: the codec knows, and writes what is valid in our own form.
    batch, metadata = decode_examples_record(value)
    record = _core.ExampleRecord.read(encode_examples(batch))
    if record is None:
        raise WireError(f"examples must be a record that the core reads, got {len(value)} bytes")
    return record, metadata


class ExampleStacker:
    """Stacks rows of records into batches, with the model input of `form`: what `ExampleBatch.concat` gives of the decoded rows."""

    def __init__(self, form: InputForm) -> None:
        self._form, self._features = form, _core.JobFeatures(form.sparse, form.dense)

    def stack(self, parts: Sequence[RecordRows]) -> ExampleBatch:
        """Return the rows of all parts, at least one, in order.

        The records must have the same tasks, each dense feature one width, and one of the form its own.
        """
        rows = _core.ExampleRows(parts)
        (fids, lengths), matrix = rows.input(self._features)
        features = StackedColumns(len(rows), _sparse_of(rows), _dense_of(rows), form=self._form, fids=fids, lengths=lengths, matrix=matrix)
        return ExampleBatch(
            request_ids=_RequestIds(rows, range(len(rows))),
            item_ids=rows.item_ids(),
            times_ms=rows.times_ms(),
            kinds=rows.kinds(),
            sample_rates=rows.sample_rates(),
            labels=dict(zip(parts[0][0].tasks, rows.labels(), strict=True)),
            features=features,
            served=_served_of(rows),
        )


def _served_of(rows: _core.ExampleRows) -> ServedScores | None:
    found = rows.served()
    if found is None:
        return None
    models, codes, scores = found
    return ServedScores(dict(scores), tuple(ServedModel(*model) for model in models), codes)


def _sparse_of(rows: _core.ExampleRows) -> Mapping[str, SparseColumn]:
    return _Columns(rows.sparse_names, lambda name: SparseColumn(*rows.bags(name)))


def _dense_of(rows: _core.ExampleRows) -> Mapping[str, FloatArray]:
    return _Columns(rows.dense_names, rows.dense)


class _Columns(Mapping[str, _Value]):
    """Columns by name, each made when it is asked for: a trainer asks for none."""

    def __init__(self, names: Callable[[], list[str]], column: Callable[[str], _Value]) -> None:
        self._names_of, self._column = names, column

    @cached_property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys(self._names_of())

    def __getitem__(self, name: str) -> _Value:
        if name not in self._names:
            raise KeyError(name)
        return self._column(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _RequestIds(Sequence[str]):
    """Request ids, each a text when it is asked for."""

    def __init__(self, rows: _core.ExampleRows, places: range) -> None:
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            return _RequestIds(self._rows, self._places[place])
        row = self._places[place]
        return self._rows.request_ids(row, row + 1)[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

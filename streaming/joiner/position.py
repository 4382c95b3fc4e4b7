"""The joiner's position in one partition and its stored form in Kv."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from monolith_py.errors import WireError
from monolith_streaming.joiner.watermark import WatermarkState

_VERSION = 1


@dataclass
class Position:
    """Offsets to read on from, by `InputTopic`; the records of the next step follow at or after `examples_end`."""

    offsets: list[int]
    examples_end: int
    watermark: WatermarkState = field(default_factory=WatermarkState)


def position_key(job_name: str, partition: int) -> str:
    """Return the Kv key of a partition's position."""
    return f"joiner:{job_name}:position:{partition}"


def outbox_key(job_name: str, partition: int) -> str:
    """Return the Kv key of a partition's outbox."""
    return f"joiner:{job_name}:outbox:{partition}"


def encode_position(position: Position) -> bytes:
    """Return the stored form of `position`."""
    fields = {"offsets": position.offsets, "examples_end": position.examples_end, "reached": asdict(position.watermark)}
    return json.dumps({"version": _VERSION, **fields}).encode()


def decode_position(value: bytes) -> Position:
    """Return the position in `value`.

    Raises:
        WireError: the bytes have another version or are no position.
    """
    try:
        fields = json.loads(value)
        version = fields.pop("version")
        if version != _VERSION:
            raise WireError(f"position.version must be {_VERSION}, got {version}")
        return Position(fields["offsets"], fields["examples_end"], WatermarkState(**fields["reached"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"position must be a JSON object of offsets, examples_end and reached, got {value!r}: {error}") from None

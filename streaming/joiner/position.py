"""Where the joiner is in one partition, as it lies in Kv: offsets, watermark, end of its output."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from monolith_py.errors import WireError
from monolith_streaming.joiner.watermark import WatermarkState

_VERSION = 1


@dataclass
class Position:
    """Offsets of the next records to read, by `InputTopic`; `examples_end`: the records of the next step lie at or after it."""

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
    """Return `position` as it lies in Kv."""
    fields = {"offsets": position.offsets, "examples_end": position.examples_end, "reached": asdict(position.watermark)}
    return json.dumps({"version": _VERSION, **fields}).encode()


def decode_position(value: bytes) -> Position:
    """Return what `encode_position` wrote.

    Raises:
        WireError: the bytes are of another version, or no position.
    """
    try:
        fields = json.loads(value)
        version = fields.pop("version")
        if version != _VERSION:
            raise WireError(f"position must be of version {_VERSION}, got {version}")
        return Position(fields["offsets"], fields["examples_end"], WatermarkState(**fields["reached"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"position must be a JSON object of offsets, examples_end and reached, got {value!r}: {error}") from None

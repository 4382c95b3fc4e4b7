"""The joiner's position in one partition, its stored form, and the keys of the joiner's state in Kv.

The keys begin with the job and its topic of examples: a job on other topics (`log.topic_prefix`) has a state of its own. A position says
for which tasks the labels of the waiting requests are.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from monolith_py.errors import WireError
from monolith_streaming.joiner.watermark import WatermarkState

_VERSION = 2


@dataclass
class Position:
    """Offsets to read on from, by `InputTopic`; the records of the next step follow at or after `examples_end`."""

    offsets: list[int]
    examples_end: int
    watermark: WatermarkState = field(default_factory=WatermarkState)
    tasks: list[str] = field(default_factory=list)  # bit t of a waiting request's labels is that of tasks[t]


@dataclass(frozen=True)
class StateKeys:
    """Keys in Kv of the state of one job on one topic of examples.

    >>> StateKeys("shop", "examples").position(3)
    'joiner:shop:examples:position:3'
    """

    job: str
    examples: str

    @property
    def waiting(self) -> str:
        """Return the prefix of the keys of all waiting requests."""
        return f"joiner:{self.job}:{self.examples}:waiting:"

    def waiting_of(self, partition: int) -> str:
        """Return the prefix of the keys of a partition's waiting requests; the request id follows."""
        return f"{self.waiting}{partition}:"

    def position(self, partition: int) -> str:
        """Return the key of a partition's position."""
        return f"joiner:{self.job}:{self.examples}:position:{partition}"

    def outbox(self, partition: int) -> str:
        """Return the key of a partition's outbox."""
        return f"joiner:{self.job}:{self.examples}:outbox:{partition}"


def encode_position(position: Position) -> bytes:
    """Return the stored form of `position`."""
    fields = {"offsets": position.offsets, "examples_end": position.examples_end, "reached": asdict(position.watermark)}
    return json.dumps({"version": _VERSION, "tasks": position.tasks, **fields}).encode()


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
        return Position(fields["offsets"], fields["examples_end"], WatermarkState(**fields["reached"]), fields["tasks"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "must be a JSON object of offsets, examples_end, reached and tasks"
        raise WireError(f"position {rule}, got {value[:200]!r}: {error}") from None

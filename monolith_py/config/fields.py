"""Field types and the root model of all settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# Bounds of float32, the precision of tables, towers and losses: a smaller number would be 0, a greater one infinite.
_SMALLEST, _GREATEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
# A century: sums of times stay far from the end of int64.
_MOST_SECONDS = 3_155_760_000


def rule_error(rule: str) -> PydanticCustomError:
    """Return the error of a value that breaks `rule`, the part after "must"."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _in_float32(value: float) -> float:
    if value and not _SMALLEST <= abs(value) <= _GREATEST:
        raise rule_error(f"be within float32, {_SMALLEST:.3g} to {_GREATEST:.3g}")
    return value


def _below_one(value: float) -> float:
    if value > 1 - 2.0**-24:
        raise rule_error("be below 1 in float32")
    return value


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise rule_error("have no NUL character")
    return value


# At most 128 characters: a feature's name is a file name, too.
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
FilePath = Annotated[str, Field(min_length=1), AfterValidator(_no_nul)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_in_float32)]
NotNegative = Annotated[float, Field(ge=0), AfterValidator(_in_float32)]
Share = Annotated[float, Field(ge=0, lt=1), AfterValidator(_in_float32), AfterValidator(_below_one)]
Count = Annotated[int, Field(ge=1, le=(1 << 31) - 1)]
CountOrZero = Annotated[int, Field(ge=0, le=(1 << 31) - 1)]
Bytes = Annotated[int, Field(ge=1, le=(1 << 63) - 1)]
Width = Annotated[int, Field(ge=1, le=1 << 16)]
Threads = Annotated[int, Field(ge=0, le=1024)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=_MOST_SECONDS)]
SecondsOrZero = Annotated[float, Field(ge=0, le=_MOST_SECONDS)]
# Encoding of the rows of a table outside of the trainer: bytes of a row of D weights are 4 D, 2 D, D + 4 and D / 2 + 4.
Packing = Literal["fp32", "fp16", "int8", "int4"]
WholeSeconds = Annotated[int, Field(ge=1, le=_MOST_SECONDS)]


class Settings(BaseModel):
    """Root model of all settings: frozen and strict; an unknown key is an error.

    `renamed` maps former keys to their new names, for the error message.
    """

    renamed: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_renamed(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            renamed = {old: new for old, new in cls.renamed.items() if old in given}
            if renamed:
                raise PydanticCustomError("renamed", "{renamed}", {"renamed": renamed})
        return given

    def is_default(self, name: str) -> bool:
        """Return whether the field `name` has its default."""
        return bool(getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True))


def section_of(annotation: Any) -> type[Settings] | None:
    """Return the section that a field of this type holds, once or in an array; None for a plain value.

    >>> section_of(tuple[Settings, ...]) is Settings, section_of(int | None)
    (True, None)
    """
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation if issubclass(annotation, Settings) else None
    return next((found for one in get_args(annotation) if (found := section_of(one))), None)


def sections(model: type[Settings]) -> Iterator[tuple[str, type[Settings]]]:
    """Yield the path and model of each section below `model`, in order; a section before those in it."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section:
            yield name, section
            for path, inner in sections(section):
                yield f"{name}.{path}", inner

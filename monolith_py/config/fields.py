"""Field types and the root model of all settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


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

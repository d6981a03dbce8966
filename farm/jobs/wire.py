"""Values that cross a process, as JSON: how they are checked, and how they grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, field_validator, model_serializer


class Wire(BaseModel):
    """A frozen value that crosses a process: unknown fields, NaN, infinities and booleans are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any) -> Any:
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,):
            if isinstance(part, bool):
                word = str(part).lower()
                raise ValueError(f'{word} is neither a number nor text; for the word write "{word}"')
        return value


class Grown(Wire):
    """A value that has gained fields since it was first written down.

    In JSON it has of these only what is not at the default, so that one that has no use for them is what earlier
    versions read and wrote, byte for byte.
    """

    gained: ClassVar[Mapping[str, Any]]
    """The fields, each with the default that it is left out at."""

    @model_serializer(mode="wrap")
    def _as_earlier_versions_wrote_it(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        left_out = {name for name, default in self.gained.items() if getattr(self, name) == default}
        return {name: value for name, value in fields.items() if name not in left_out}

"""Bodies of requests as models read them, within the bounds that every submission is read by."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError, model_validator

from farm.jobs.faults import invalid
from farm.web.v1.submission import read_json

M = TypeVar("M", bound=BaseModel)


class Lenient(BaseModel):
    """A body as programs of other servers send it: a field that is null counts as one that is missing."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_nothing(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}


async def parsed(model: type[M], request: Request) -> M:
    """What the JSON of a request says. Raises `InvalidInput`, naming the field at fault."""
    return validated(model, read_json(await request.body()))


def validated(model: type[M], fields: object) -> M:
    """What fields say. Raises `InvalidInput`, naming the field at fault."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid(error) from error

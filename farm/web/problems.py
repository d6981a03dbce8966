"""What a client of the site sees when something goes wrong: RFC 9457 problems, in the same words as the command's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Scope

from farm import errors
from farm.errors import FarmError, InvalidInput

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
"""When to ask again for what a server that is away keeps from being done."""

_STATUSES: Mapping[type[FarmError], int] = {
    errors.InvalidInput: 422,
    errors.NotConfigured: 503,
    errors.LedgerUnavailable: 503,
    errors.StorageError: 503,
    errors.ObjectMissing: 404,
    errors.ObjectTooLarge: 502,
    errors.ObjectDamaged: 502,
    errors.WrongBucket: 503,
    errors.JobNotFound: 404,
    errors.WorkerNotFound: 404,
    errors.WrongState: 409,
    errors.FetchRefused: 502,
    errors.ModelError: 422,
    errors.HomeRefused: 503,
}


class Problem(BaseModel):
    """An RFC 9457 problem. `type` is stable and for programs, `detail` says what is wrong, `hint` what to try."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:render-farm:job-not-found",
                    "title": "Job not found",
                    "status": 404,
                    "detail": "there is no job 0kz3mw7c9d2f4g5h-0000",
                    "hint": "'farm list' shows the jobs of this farm",
                    "field": None,
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    field: str | None = Field(default=None, description="The field at fault, if one is.")

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The answer that says so."""
        return Response(self.model_dump_json(), self.status, {**(headers or {})}, MEDIA_TYPE)


class Refused(Exception):
    """What only a server refuses: a foreign host, too many requests, … `kind` is the stable end of the type."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        hint: str | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = problem(status, kind, detail, hint=hint, field=field)
        self.headers = dict(headers or {})


def later(status: int, kind: str, detail: str, seconds: float, *, hint: str | None = None) -> Refused:
    """A refusal of what may be asked for again after so many seconds."""
    return Refused(status, kind, detail, hint=hint, headers={"Retry-After": str(max(1, round(seconds + 0.5)))})


def problem(status: int, kind: str, detail: str, *, hint: str | None = None, field: str | None = None) -> Problem:
    title = kind.replace("-", " ").capitalize()
    return Problem(type=f"urn:render-farm:{kind}", title=title, status=status, detail=detail, hint=hint, field=field)


def of_error(error: FarmError) -> Problem:
    """What an error of the farm's is as a problem."""
    status = next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)
    kind = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
    field = error.field if isinstance(error, InvalidInput) else None
    return problem(status, kind, error.message, hint=error.hint, field=field)


def told_by(error: FarmError | Refused) -> tuple[Problem, Mapping[str, str]]:
    """The problem that a request ended in, and the headers of the answer that says so."""
    if isinstance(error, Refused):
        return error.problem, error.headers
    told = of_error(error)
    return told, {"Retry-After": str(RETRY_SECONDS)} if told.status == 503 else {}


Tell = Callable[[Scope, Problem, Mapping[str, str]], Response]
"""Makes the answer to a request that ended in a problem, with these headers."""


def of_status(status: int, detail: str) -> Problem:
    """The problem that a bare HTTP status is."""
    return problem(status, HTTPStatus(status).phrase.lower().replace(" ", "-"), detail)

"""Problems as OpenAI tells its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from farm.web.problems import Problem

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def form(told: Problem, headers: Mapping[str, str]) -> Response:
    """`code` is stable and for programs; what is wrong with a request is a bad request here."""
    status = 400 if told.status == 422 else told.status
    return Response(json.dumps(error(told)), status, {**headers}, "application/json")


def error(told: Problem) -> dict[str, Any]:
    """The body of an answer, or the data of an event, that tells a problem."""
    message = f"{told.detail} ({told.hint})" if told.hint else told.detail
    kind = _TYPES.get(told.status, "server_error" if told.status >= 500 else "invalid_request_error")
    code = told.type.rpartition(":")[2].replace("-", "_")
    return {"error": {"message": message, "type": kind, "param": told.field, "code": code}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What can go wrong, besides what can everywhere, as the document says it."""
    everywhere = (400, 401, 403, 413, 421, 429, 500, 502, 503)
    text = {"type": "string"}
    fields = {"message": text, "type": text, "param": {"type": ["string", "null"]}, "code": text}
    schema = {
        "type": "object",
        "properties": {"error": {"type": "object", "properties": fields, "required": [*fields]}},
        "required": ["error"],
    }
    content = {"application/json": {"schema": schema}}
    return {status: {"description": "An error.", "content": content} for status in sorted({*everywhere, *statuses})}

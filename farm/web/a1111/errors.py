"""Problems as A1111 tells its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from farm.web.problems import Problem


def form(told: Problem, headers: Mapping[str, str]) -> Response:
    """`error` is stable and for programs; `detail` is what they show."""
    detail = f"{told.detail} ({told.hint})" if told.hint else told.detail
    error = told.type.rpartition(":")[2].title().replace("-", "")
    body = {"error": error, "detail": detail, "body": "", "errors": told.detail}
    return Response(json.dumps(body), told.status, {**headers}, "application/json")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What can go wrong, besides what can everywhere, as the document says it."""
    everywhere = (400, 401, 403, 413, 421, 422, 429, 500, 502, 503)
    text = {"type": "string"}
    schema = {
        "type": "object",
        "properties": {"error": text, "detail": text, "body": text, "errors": text},
        "required": ["error", "detail", "body", "errors"],
    }
    content = {"application/json": {"schema": schema}}
    return {status: {"description": "An error.", "content": content} for status in sorted({*everywhere, *statuses})}

"""How problems are told: in a page, as RFC 9457 has them, or in the words of another program's API at its own paths.

What is refused before a request reaches an API, such as a wrong token, is told in that API's words too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Scope

from farm.errors import FarmError
from farm.web.problems import Problem, Refused, Tell, told_by

Dialect = Callable[[Problem, Mapping[str, str]], Response]
"""Makes the answer that tells a problem, with these headers."""


def as_problem(_: Scope, told: Problem, headers: Mapping[str, str]) -> Response:
    """The answer as RFC 9457 has it."""
    return told.response(headers)


@dataclass(frozen=True)
class Dialects:
    """Of the APIs that have one of their own, by what their paths begin with, and how everything else is told."""

    by_prefix: Mapping[str, Dialect] = field(default_factory=dict)
    otherwise: Tell = as_problem

    def response(
        self, scope: Scope, what: Problem | Refused | FarmError, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The answer to a request that ended in this."""
        told, own = (what, {}) if isinstance(what, Problem) else told_by(what)
        headers = {**own, **(headers or {})}
        for prefix, dialect in self.by_prefix.items():
            if scope["path"].startswith(prefix):
                return dialect(told, headers)
        return self.otherwise(scope, told, headers)

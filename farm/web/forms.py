"""How problems are told: as RFC 9457 has them, or at the paths of another program's API as that program has them.

What is refused before a request reaches an API, such as a wrong token, is told in that API's words too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.responses import Response

from farm.errors import FarmError
from farm.web.problems import RETRY_SECONDS, Problem, Refused, of_error

Form = Callable[[Problem, Mapping[str, str]], Response]
"""Makes the answer that tells a problem, with these headers."""


@dataclass(frozen=True)
class Forms:
    """The forms of those APIs that have one of their own, by what their paths begin with."""

    by_prefix: Mapping[str, Form] = field(default_factory=dict)

    def response(
        self, path: str, what: Problem | Refused | FarmError, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The answer to a request for a path that ended in this."""
        if isinstance(what, Refused):
            return self._of(path)(what.problem, {**what.headers, **(headers or {})})
        told = of_error(what) if isinstance(what, FarmError) else what
        again = {"Retry-After": str(RETRY_SECONDS)} if isinstance(what, FarmError) and told.status == 503 else {}
        return self._of(path)(told, {**again, **(headers or {})})

    def _of(self, path: str) -> Form:
        return next((form for prefix, form in self.by_prefix.items() if path.startswith(prefix)), _problem)


def _problem(told: Problem, headers: Mapping[str, str]) -> Response:
    return told.response(headers)

"""How problems are told: in a page, as RFC 9457 has them, or in the words of another program's API at its own paths.

What is refused before a request reaches an API, such as a wrong token, is told in that API's words too. What is wrong
with a request is told in the words of the command, whose options are fields to whoever asks an API.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Scope

from farm.errors import FarmError
from farm.jobs.request import JobRequest
from farm.web.problems import Problem, Refused, Tell, told_by

Form = Callable[[Problem, Mapping[str, str]], Response]
"""Makes the answer that tells a problem, with these headers."""

_APIS = "/api/"
_REFUSES_INPUT = 422
_QUOTED = r"(?<!\w)'[^']*'"
_OPTION = r"--(?P<option>[a-z]+(?:-[a-z]+)*)(?:(?<=--fit) (?P<value>init)\b)?(?: (?:FILE|NAME|SIDE=PIXELS))?"
_WORDS = re.compile(f"{_QUOTED}|{_OPTION}")
_FIELDS: Mapping[str, tuple[str, str]] = {
    "lora": ("loras", ""),
    "loss": ("losses", ""),
    "label": ("labels", ""),
    "invert-mask": ("redo", "black"),
    "plain-prompt": ("reading", "plain"),
}
"""What options are called in a request, and what they say there, where that is not their own name."""


@dataclass(frozen=True)
class Dialect:
    """Of another program's API: the form of its answers, and what it calls fields of the farm's."""

    form: Form
    names: Mapping[str, str] = field(default_factory=dict)


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
                return dialect.form(naming_fields(told, dialect.names), headers)
        return self.otherwise(scope, naming_fields(told) if scope["path"].startswith(_APIS) else told, headers)


def naming_fields(told: Problem, names: Mapping[str, str] | None = None) -> Problem:
    """The same in which fields of a request stand in the place of options, by the `names` that a caller has for them.

    What is quoted, such as a command or a caller's own words, stays.
    """
    if told.status != _REFUSES_INPUT:
        return told

    def named(found: re.Match[str]) -> str:
        option = found["option"] or ""
        field, value = _FIELDS.get(option, (option.replace("-", "_"), found["value"] or ""))
        if field not in JobRequest.model_fields:
            return found[0]
        if field in (names or {}):
            return f"'{(names or {})[field]}'"  # which may have other values
        return f"'{field}={value}'" if value else f"'{field}'"

    before = f"{told.field}: " if told.field and told.detail.startswith(f"{told.field}: ") else ""
    detail = _WORDS.sub(named, told.detail.removeprefix(before))
    where = re.sub(r"--(?=\w+$)", "", told.field) if told.field else told.field
    hint = _WORDS.sub(named, told.hint) if told.hint else told.hint
    return told.model_copy(update={"detail": f"{where}: {detail}" if before else detail, "hint": hint, "field": where})

"""What a check of `farm doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One thing looked at: how it is, and what mends it if it is not well."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    detail: str
    mend: str | None = None


def ok(name: str, detail: str) -> Check:
    return Check(name, "ok", detail)


def warn(name: str, detail: str, *, mend: str | None) -> Check:
    return Check(name, "warn", detail, mend)


def fail(name: str, detail: str, *, mend: str | None) -> Check:
    return Check(name, "fail", detail, mend)

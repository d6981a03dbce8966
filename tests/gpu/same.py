"""Deterministic mode keeps its promise: the same bytes alone, in company, resumed, and in another process.

Processes are needed, for kernels are chosen once in each: see `digests`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.gpu.facts import Facts
from tests.gpu.subjects import Subjects

_ENOUGH = 60.0


def run(facts: Facts, subjects: Subjects) -> None:
    for kind in reversed(subjects.kinds):
        facts.attempt(kind, lambda kind=kind: _compared(facts, subjects, kind), seconds=5)  # type: ignore[misc]


def _compared(facts: Facts, subjects: Subjects, kind: str) -> None:
    first = _process(facts, subjects, kind, "whole")
    alone, company, resumed = first["alone"], first["company"], first["resumed"]
    facts.check(
        f"{kind}: the same bytes alone and in company", *_same(alone, company), jobs=len(alone), rows=first["rows"]
    )
    facts.check(f"{kind}: the same bytes resumed", *_same(resumed, company), jobs=len(resumed))
    facts.check(f"{kind}: no row depends on its place", not first["moving"], modules=first["moving"])
    other = _process(facts, subjects, kind, "other")
    facts.check(f"{kind}: the same bytes in another process, in other places", *_same(other["company"], company))
    usual = _process(facts, subjects, kind, "usual")
    cost = first["seconds"] / usual["seconds"]
    facts.figure(f"{kind}: what a full batch takes, over the usual", ratio=cost)
    facts.figure(f"{kind}: parts whose rows depend on their place in usual mode", modules=usual["moving"])


def _same(some: dict[str, str], all_of_them: dict[str, str]) -> tuple[bool]:
    assert some
    return (all(all_of_them[job] == digest for job, digest in some.items()),)


def _process(facts: Facts, subjects: Subjects, kind: str, how: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.gpu.digests", how, kind, str(subjects.device), str(subjects.scratch)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, encoding="utf-8", timeout=max(_ENOUGH, facts.left), check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found

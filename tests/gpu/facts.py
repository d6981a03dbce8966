"""What a part finds: a fact a line on standard output, as soon as it is known, so that a run cut short keeps the rest.

A part runs in a process of its own (see `__main__`), which may crash, hang or lose its device without harm to others.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

MARK = "fact "
"""Begins the lines that are facts. Whatever else is printed goes into the log."""


@dataclass(frozen=True)
class Fact:
    """One finding. `ok` is None for a figure that nothing is asked of, and for what was not run."""

    name: str
    ok: bool | None
    figures: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def line(self) -> str:
        return MARK + json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> Fact | None:
        """The fact that a line holds, if it is one."""
        return cls(**json.loads(line.removeprefix(MARK))) if line.startswith(MARK) else None


class Facts:
    """Tells facts, and knows how many seconds the part has left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def check(self, name: str, ok: bool, **figures: Any) -> None:
        """What must hold, and the figures that it was judged by."""
        self._tell(Fact(name, bool(ok), figures))

    def figure(self, name: str, **figures: Any) -> None:
        """What is only measured."""
        self._tell(Fact(name, None, figures))

    def not_run(self, name: str, why: str) -> None:
        """What could not be tried."""
        self._tell(Fact(name, None, note=f"not run: {why}"))

    def attempt(self, name: str, step: Callable[[], None], *, seconds: float = 0.0) -> None:
        """Run a step that takes about so long, if there is time; its failure is a fact, and the next one goes on."""
        if self.left < seconds:
            return self.not_run(name, f"{max(0.0, self.left):.0f} s were left")
        began = time.monotonic()
        try:
            step()
        except Exception as error:
            traceback.print_exc()
            self._tell(Fact(name, False, note=f"{type(error).__name__}: {error}"[:500]))
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)

    def _tell(self, fact: Fact) -> None:
        print(fact.line, flush=True)

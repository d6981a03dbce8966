"""A file that somebody gives the farm to keep, as they know it: one on their disk, or one that they sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from farm.errors import InvalidInput


@dataclass(frozen=True)
class GivenFile:
    """Where it lies; what errors call it, and the `field` that they blame; and what the farm notes as its `source`."""

    path: Path
    called: str
    field: str
    source: str

    @classmethod
    def at(cls, path: Path, field: str) -> Self:
        """A file that is known by where it lies."""
        return cls(path, called=str(path), field=field, source=str(path))

    def refused(self, why: str, *, hint: str | None = None) -> InvalidInput:
        """The error to raise, of a file that `why` says."""
        return InvalidInput(f"{self.called} {why}", field=self.field, hint=hint)

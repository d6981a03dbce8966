"""What an attempt has made, on its way to the bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from farm.bucket.results import ModelUsed
from farm.jobs.report import RenderReport
from farm.jobs.spec import ResolvedSpec


@dataclass(frozen=True)
class Artifact:
    """One file of an attempt: the object name it is published under, its type, and its bytes or where they are."""

    name: str
    content_type: str
    data: bytes | Path

    def read(self) -> bytes:
        """The bytes. Raises `OSError` if the file is not there any more."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()


@dataclass(frozen=True)
class Finished:
    """A finished picture with its trace, and what `result.json` will say of it. `timings` are seconds by part."""

    spec: ResolvedSpec
    model: ModelUsed
    dtype: str
    warnings: tuple[str, ...]
    timings: Mapping[str, float]
    artifacts: tuple[Artifact, ...]
    report: RenderReport = field(default_factory=RenderReport)

"""The models that the farm keeps, as a worker has them on its disk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from worker.models.registry import Stored


@dataclass(frozen=True)
class Opened:
    """A model that the farm keeps, on this machine: its files in a folder, and the options that it was added with.

    Of its own autoencoder these have the name that people gave the file, and `vae_sha256` is what is in it.
    """

    folder: Path
    options: Mapping[str, str] = field(default_factory=dict)
    vae_sha256: str | None = None


class StoredModels(Protocol):
    """The models that the farm keeps."""

    def opened(self, source: Stored) -> AbstractContextManager[Opened]:
        """A folder with a model's files, and what is said of it. Raises `ModelError`, `StorageError`."""

    def mend(self, source: Stored) -> bool:
        """Have files fetched again that are damaged on this disk. Whether there were any."""

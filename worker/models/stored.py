"""The models that the farm keeps, as a worker has them on its disk."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from farm.errors import ModelError
from farm.keys import MODEL_FILE
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


@contextmanager
def told_of_the_farm(name: str, folder: Path) -> Iterator[None]:
    """What is wrong with the model `name` is told by its files' names in the farm, for the worker's `folder` of them is
    gone by then, and what to do is told in the farm's command."""
    try:
        yield
    except ModelError as error:
        said = _without(folder, error.message)
        raise type(error)(said, hint=error.hint and _hint(name, folder, error.hint)) from error


def _hint(name: str, folder: Path, hint: str) -> str:
    before, of_a_worker, options = hint.partition(f"{name}={folder / MODEL_FILE}")
    if of_a_worker:
        return f"{before}'farm models add {name}=FILE{options} --replace'"
    return _without(folder, hint)


def _without(folder: Path, text: str) -> str:
    ours = rf"{re.escape(tempfile.gettempdir())}/farm-[\w-]+"
    inside = re.sub(rf"({re.escape(str(folder))}|{ours})/", "", text)
    return re.sub(rf"{re.escape(str(folder))}|{ours}", "the farm", inside)

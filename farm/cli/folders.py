"""Folders that options name, made before anything else is done."""

from __future__ import annotations

import os
from pathlib import Path

from farm.errors import InvalidInput


def make_folder(folder: Path, *, option: str) -> None:
    """Make the folder that an option names. Raises `InvalidInput` if nothing can be put there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be made: {error.strerror}", field=option) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInput(f"{folder} cannot be written to", field=option)

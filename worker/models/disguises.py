"""What a file really is when it is not what its name says: downloads go wrong in a few well-known ways."""

from __future__ import annotations

from pathlib import Path

from farm.disguises import LOOK_AT, disguise
from farm.errors import ModelError
from farm.keys import WEIGHTS

_HEADER = 8  # bytes of safetensors that say how long the JSON after them is


def unreadable(path: Path, error: Exception) -> ModelError:
    """The error of a file of weights or of a configuration that cannot be read: what it is, and what to do."""
    what, hint = recognised(path) or _said(error)
    return ModelError(f"{path} cannot be loaded: {what}", hint=hint)


def _said(error: Exception) -> tuple[str, str | None]:
    if "incomplete metadata" in str(error) or "MetadataIncompleteBuffer" in str(error):
        return "it is cut short: weights that its header names are not there", "fetch it again"
    return first_line(error), None


def first_line(error: Exception) -> str:
    """What an error says, as one line: the second of its lines too, where the first one only introduces it."""
    if isinstance(error, KeyError):  # which says no more than the key
        return f"there is no {error}"
    first, *more = (str(error) or type(error).__name__).strip().splitlines()
    return f"{first} {more[0].strip()}" if more and first.endswith(":") else first


def recognised(path: Path) -> tuple[str, str] | None:
    """What a file turns out to be, and a hint; None if it is nothing well known."""
    try:
        with path.open("rb") as file:
            beginning = file.read(LOOK_AT)
    except OSError:
        return None
    is_weights = path.suffix.lower() == WEIGHTS
    if (beginning or is_weights) and (found := disguise(beginning)):  # a list of words may be empty
        return f"it is {found[0]}", found[1]
    if is_weights:
        size = path.stat().st_size
        if size < _HEADER or int.from_bytes(beginning[:_HEADER], "little") > size:
            return f"it is cut short or damaged, with {size:,} bytes", "fetch it again"
    return None

"""What a file really is when it is not what its name says: downloads go wrong in a few well-known ways."""

from __future__ import annotations

from pathlib import Path

from farm.errors import ModelError
from farm.keys import WEIGHTS

CONVERT = "if you trust it, load it with diffusers elsewhere and save it with save_pretrained"

_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PAGES = (b"<!doctype", b"<html", b"<?xml")
_HEADER = 8  # bytes of safetensors that say how long the JSON after them is
_LOOK_AT = 512


def unreadable(path: Path, error: Exception) -> ModelError:
    """The error of a file of weights or of a configuration that cannot be read: what it is, and what to do."""
    what, hint = recognised(path) or _said(error)
    return ModelError(f"{path} cannot be loaded: {what}", hint=hint)


def _said(error: Exception) -> tuple[str, str | None]:
    if "incomplete metadata" in str(error) or "MetadataIncompleteBuffer" in str(error):
        return "it is cut short: weights that its header names are not there", "fetch it again"
    return first_line(error), None


def first_line(error: Exception) -> str:
    """What an error says, as one line."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def recognised(path: Path) -> tuple[str, str] | None:
    """What a file turns out to be, and a hint; None if it is nothing well known."""
    try:
        with path.open("rb") as file:
            beginning = file.read(_LOOK_AT)
    except OSError:
        return None
    if beginning.startswith(_LFS):
        return "it is a pointer of Git LFS, not the file itself", "'git lfs pull' in its repository fetches the file"
    if beginning.lstrip().lower().startswith(_PAGES):
        return "it is a web page, not the file itself", "download the file, not the page that shows it"
    if beginning.startswith(_ZIP) or (beginning.startswith(_PICKLE) and beginning[_HEADER : _HEADER + 1] != b"{"):
        return "it is pickled whatever its name says, and so could run code", CONVERT
    if path.suffix.lower() == WEIGHTS:
        size = path.stat().st_size
        if size < _HEADER or int.from_bytes(beginning[:_HEADER], "little") > size:
            return f"it is cut short or damaged, with {size:,} bytes", "fetch it again"
    return None

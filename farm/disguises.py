"""What a file really is that is named as weights and is none: downloads go wrong in a few well-known ways."""

from __future__ import annotations

CONVERT = "if you trust it, load it with diffusers elsewhere and save it with save_pretrained"
LOOK_AT = 512
"""So many bytes of its beginning tell it."""

_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PAGES = (b"<!doctype", b"<html", b"<?xml")
_LENGTH = 8  # bytes of safetensors that say how long the JSON after them is


def disguise(beginning: bytes) -> tuple[str, str] | None:
    """What a file is that begins so, as it follows on "is", and a hint; None if it is nothing well known."""
    if not beginning:
        return "empty", "fetch it again"
    if beginning.startswith(_LFS):
        return "a pointer of Git LFS, not the file itself", "'git lfs pull' in its repository fetches the file"
    if beginning.lstrip().lower().startswith(_PAGES):
        return (
            "a web page, not the file itself",
            "the download wanted a login, or the address was that of a page: download the file",
        )
    if beginning.startswith(_ZIP) or (beginning.startswith(_PICKLE) and beginning[_LENGTH : _LENGTH + 1] != b"{"):
        return "pickled whatever its name says, and so could run code", CONVERT
    return None

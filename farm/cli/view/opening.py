"""Handing a file to whatever the system shows such files with."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from farm.errors import FarmError


def open_file(path: Path) -> None:
    """Show the file. Raises `FarmError` if nothing here does; the file stays.

    `xdg-open` is waited for: it returns at once where there is a desktop, and shows the file in the terminal where
    there is none. `open` of macOS would wait until the viewer is closed.
    """
    if code := click.launch(str(path.resolve()), wait=sys.platform != "darwin"):
        raise FarmError(f"nothing here shows {path} ({_OPENER} said {code})", hint="open it in a browser or a viewer")


_OPENER = "open" if sys.platform == "darwin" else "xdg-open"

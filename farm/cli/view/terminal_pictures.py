"""A picture in the terminal itself: in its pixels where it answers that it can, else two of them a character."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from farm.cli.view.output import console
from farm.errors import InvalidInput

_LINES_LEFT = 3
"""Below a picture, for the prompt and what was said."""


def check_terminal() -> None:
    """Raise `InvalidInput` if there is no terminal to draw into."""
    both = sys.stdin.isatty() and sys.stdout.isatty()  # it answers where one types
    if not both or not os.get_terminal_size().columns:
        raise InvalidInput("there is no terminal to draw into", field="here", hint="without --here a viewer opens")


def show_here(path: Path) -> None:
    """Draw a picture into the terminal, as large as fits."""
    terminal = console()
    with Image.open(path) as picture:
        terminal.print(_drawn(picture.convert("RGB"), terminal.width, terminal.height - _LINES_LEFT))


def _drawn(picture: Image.Image, columns: int, lines: int) -> Any:
    # A character is twice as high as wide, and one may show no more than a pixel of the width.
    width = max(1, min(columns, 2 * lines * picture.width // picture.height, picture.width))
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)  # that a terminal does not answer is no news
    from textual_image.renderable import Image as Renderable  # as this terminal answers while it is imported

    return Renderable(picture, width=width, height="auto")

"""The options that say what of the init picture is redone, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from farm.cli.options.once import PICTURE, Once
from farm.jobs.spec import FILLS
from farm.jobs.start import MAX_BLUR
from farm.jobs.writing import ALPHA


class _FileOrAlpha(click.Path):
    """A file; or `alpha`, for what is transparent in the init picture. A file of that name is `./alpha`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == ALPHA else super().convert(value, param, ctx)


REDOING = (
    click.option(
        "--mask",
        cls=Once,
        instead=PICTURE,
        type=_FileOrAlpha(path_type=Path, dir_okay=False),
        metavar="FILE|alpha",
        help="With --init: redo only what is white in this picture (or transparent in --init itself).",
    ),
    click.option(
        "--invert-mask", "redo", flag_value="black", default=None, help="Redo what is black in the mask, not white."
    ),
    click.option(
        "--mask-blur",
        type=int,
        metavar="PIXELS",
        help=f"Radius of the blur that blends the seam, in pixels of --init, 0 to {MAX_BLUR}.  [4; of --outpaint 0]",
    ),
    click.option(
        "--fill",
        type=click.Choice(FILLS),
        help="What to begin with under the mask: what is there, noise, what is around.  [original; of --outpaint blur]",
    ),
    click.option(
        "--only-masked",
        type=int,
        metavar="PADDING",
        help="Render only the mask's box, and so many pixels of --init around it, at the job's size, and put it back.",
    ),
    click.option(
        "--outpaint",
        cls=Once,
        instead="put all sides in one, such as left=128,top=64",
        metavar="SIDE=PIXELS,…",
        help="Let --init grow: left=128,top=64, or right, bottom.",
    ),
)

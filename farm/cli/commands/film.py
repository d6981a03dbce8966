"""`farm film`: pictures one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli.commands.pictures import named_pictures, naming_no_option
from farm.cli.view.output import note, plural, say
from farm.errors import InvalidInput
from farm.host.places import check_file, replacing

if TYPE_CHECKING:
    from PIL import Image

_VIDEO, _ANIMATION = ".mp4", ".webp"
_MAX_FRAMES = 1_000


@click.command(
    epilog="""\b
    Examples:
      farm film 0kz3 --out morph.mp4
      farm film renders/*.png --out otters.webp
    """
)
@click.argument("names", metavar="JOB|BATCH|FILE…", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("film.mp4"),
    show_default=True,
    metavar="FILE",
    help="The film: .mp4 for H.264, .webp for an animated picture.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def film(names: tuple[str, ...], out: Path, overwrite: bool) -> None:
    """Make a film of pictures, 12 a second: of jobs, batches, or files, in their order.

    All take the first one's size. H.264 needs PyAV, which comes with a worker; where it is not installed, the film is
    an animated WebP.
    """
    if out.suffix.lower() not in (_VIDEO, _ANIMATION):
        raise InvalidInput(f"{out} ends neither in {_VIDEO} nor in {_ANIMATION}", field="--out")
    out = playable(out)
    if out.exists() and not overwrite:
        raise InvalidInput(f"{out} already exists", field="--out", hint="add --overwrite to replace it")
    check_file(out, option="--out")
    pictures = decoded(list(named_pictures(names)))
    write_film(pictures, out)
    say(f"{out}  {plural(len(pictures), 'frame')}, {pictures[0].width}×{pictures[0].height} pixels")


def playable(path: Path) -> Path:
    """The path, or one of an animated WebP where no H.264 can be made, which is said on stderr."""
    from farm.pictures.video import can_encode

    if path.suffix.lower() != _VIDEO or can_encode():
        return path
    note("PyAV is not installed here, so the film is an animated WebP", "  for H.264: pip install av")
    return path.with_suffix(_ANIMATION)


def decoded(files: Sequence[tuple[str, bytes]]) -> Sequence[Image.Image]:
    """The pictures in files of these names. Raises `InvalidInput` for over 1,000, or one that is no picture."""
    from farm.pictures.images import decode

    if len(files) > _MAX_FRAMES:
        raise InvalidInput(f"a film takes up to {_MAX_FRAMES:,} pictures, not {len(files):,}")
    with naming_no_option():
        return [decode(data, name=name) for name, data in files]


def write_film(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write the film whole, of the kind that its name says. Raises `InvalidInput` if it cannot be written."""
    from farm.pictures.video import write_animation, write_video

    write = write_video if path.suffix.lower() == _VIDEO else write_animation
    with replacing(path, option="--out") as unfinished:
        write(pictures, unfinished)

"""`farm morph`: from one prompt to another with one seed, as a film."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.sending import Yield, send
from farm.cli.options.common import naming_options, one_seed_options, path_option
from farm.cli.options.request import request
from farm.cli.view.output import note
from farm.host.places import replacing
from farm.jobs.writing import RANDOM_SEED

if TYPE_CHECKING:
    from farm.client import FarmClient
    from farm.client.client import Submission


@click.command(
    epilog="""\b
    Examples:
      farm morph "a giraffe" "a cat" --seed 8 --out renders
      farm morph "a red apple" "a green apple" --frames 48 --steps 20 --out renders
      farm morph "a giraffe" "a cat" --path spherical --out renders
      farm morph "a fox" "an owl" --init fox.png --strength 0.6 --out renders
    """
)
@click.argument("first", metavar="PROMPT")
@click.argument("last", metavar="PROMPT")
@click.option(
    "--frames", type=click.IntRange(2, 1_000), default=24, show_default=True, help="Pictures, both ends included."
)
@path_option
@one_seed_options
def morph(first: str, last: str, frames: int, **options: Any) -> None:
    """A film from one PROMPT to another: their embeddings mixed in even steps, all pictures from one seed.

    The pictures are a batch of mixes like any other. With --out they are fetched, and beside them are the film (H.264
    where PyAV is installed, else an animated WebP), 12 frames a second, and a strip of up to 24 of the pictures.
    'farm film' makes the film of a batch that was rendered before.

    A straight mix of two embeddings is shorter than both; with --path spherical the worker goes along the arc between
    them, in even steps of the angle, so that the middle of the film is no fainter than its ends.
    """
    from farm.client.planning import drafted

    if options["seed"] in (None, RANDOM_SEED):
        options["seed"] = secrets.randbits(32)
    with naming_options():
        shares = [frame / (frames - 1) for frame in range(frames)]
        drafts = drafted([request("mix", (first, last), options, weights=[1 - share, share]) for share in shares])
    send(drafts, options, yields=Yield("film", "farm film {batch}", _film_beside))


def _film_beside(_: FarmClient, submission: Submission, out: Path) -> None:
    """The film and the strip of pictures that were fetched; neither if one of them is missing."""
    from farm.cli.commands.film import decoded, playable, write_film
    from farm.pictures.video import strip

    files = [out / f"{job}.png" for job in submission.jobs]
    if missing := sum(not file.exists() for file in files):
        note(
            f"no film: {missing} of {len(files)} frames {'is' if missing == 1 else 'are'} missing",
            f"  farm retry {submission.batch}, then farm film {submission.batch}",
        )
        return
    pictures = decoded([(file.name, file.read_bytes()) for file in files])
    film = playable(out / f"{submission.batch}.mp4")
    write_film(pictures, film)
    beside = out / f"{submission.batch}.strip.png"
    with replacing(beside, option="--out") as unfinished:
        strip(pictures).save(unfinished, "PNG")
    note(f"film:  {film}", f"strip: {beside}")

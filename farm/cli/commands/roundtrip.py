"""`farm submit roundtrip`: a picture through the autoencoder and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.sending import Yield, send
from farm.cli.options import parsing
from farm.cli.options.common import naming_options, sampler_options, sending_options
from farm.cli.options.once import Once
from farm.cli.view.output import note, print_json, say
from farm.jobs.request import JobRequest
from farm.jobs.spec import ENCODINGS, FITS
from farm.jobs.studies import STUDY_PRIORITY
from farm.jobs.wanted import DEFAULT_STEPS

if TYPE_CHECKING:
    from farm.client import FarmClient
    from farm.client.client import Submission
    from farm.jobs.answers import Roundtrip


@click.command(
    epilog="""\b
    Examples:
      farm submit roundtrip --init photo.png --out renders
      farm submit roundtrip --init photo.png --noise-step 10 --steps 15 --out renders
      farm submit roundtrip --init photo.png --noise-step 4 --noise-step 10 --noise-step 14 --steps 15 --wait
    """
)
@click.option(
    "--init",
    cls=Once,
    instead="a round trip is of one picture",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The PNG, JPEG or WebP picture.",
)
@click.option(
    "--fit", type=click.Choice(FITS), help="Of another shape: crop it, pad it, stretch it, or keep it.  [crop]"
)
@click.option(
    "--encode",
    type=click.Choice(ENCODINGS),
    help="Take a sample of what the autoencoder makes of it, or the mean.  [sample]",
)
@click.option(
    "--noise-step", "noise_steps", type=int, multiple=True, metavar="K", help="Decode it with the noise of step K, too."
)
@click.option("--steps", type=int, default=DEFAULT_STEPS, show_default=True, help="Steps of the schedule, 1 to 1000.")
@sampler_options
@click.option("--seed", type=int, help="Where sample and noise come from.  [default: random, recorded]")
@click.option("--width", type=int, help="Pixels, a multiple of 8 from 64 to 2048.  [default: the model's]")
@click.option("--height", type=int, help="Pixels, likewise.  [default: the model's]")
@click.option("--model", metavar="NAME", help="The model to use.  [default: $FARM_MODEL, or the only one served]")
@click.option(
    "--priority", type=int, default=STUDY_PRIORITY, show_default=True, metavar="0-9", help="9 is the most urgent."
)
@click.option("--time-limit", type=float, metavar="SECONDS", help="Fail the job if it takes longer.")
@click.option("--label", multiple=True, metavar="K=V", help="A label of your own, kept with the job.")
@sending_options
def roundtrip(**options: Any) -> None:
    """What is left of the picture --init when the autoencoder has encoded and decoded it.

    A study: it takes no step, and goes ahead of pictures. The job's picture is the decoded one. Beside it are the
    picture as it was encoded, the difference (amplified 8 times), the channels of the latents as grey pictures; with
    --noise-step, which may be repeated, the noised latents decoded, of several as a strip too. --out fetches all of it;
    'farm trace' makes a page of it. --wait tells the PSNR and how many numbers there were before and after; with --json
    as {study, encode, pixels, latents, numbers, psnr, amplified, channels, sampler, steps, noised}.
    """
    from farm.client.planning import drafted

    with naming_options():
        drafts = drafted([asked(options)])
    send(
        drafts,
        options,
        yields=Yield("page", "farm trace {batch}", _rest_beside),
        afterwards=lambda farm, submission: _tell(farm, submission, as_json=options["as_json"]),
    )


def asked(options: Mapping[str, Any]) -> JobRequest:
    """The request that the command's options make. Raises `InvalidInput`."""
    named = (
        *("init", "fit", "encode", "steps", "sampler", "schedule", "eta", "seed", "width", "height"),
        *("model", "priority", "time_limit"),
    )
    fields = {name: options[name] for name in named if options[name] is not None}
    fields |= {"noise_steps": list(options["noise_steps"]), "labels": parsing.labels(options["label"])}
    return JobRequest.parse({"mode": "roundtrip", **fields})


def _rest_beside(farm: FarmClient, submission: Submission, out: Path) -> None:
    """Fetch the other pictures too, and say where they are and what makes a page of them."""
    from farm.cli.commands import fetching

    for error in fetching.fetch_all(farm, submission.jobs, out, everything=True, overwrite=False).errors:
        note(f"farm: {error}")
    note(*(f"all:  {out / job}" for job in submission.jobs), f"page: farm trace {submission.batch} --out {out}")


def _tell(farm: FarmClient, submission: Submission, *, as_json: bool) -> None:
    from farm.client.asking import answer_of

    for job in submission.jobs:
        answer: Roundtrip = answer_of(farm.storage, farm.result(job))
        if as_json:
            print_json(answer.model_dump(mode="json"), indent=None)
        else:
            say(*_told(answer))


def _told(answer: Roundtrip) -> Iterator[str]:
    """`PSNR 27.31 dB · 49,152 numbers became 1,024, 48 times fewer`, and a line for each step's noise."""
    before, after = answer.numbers
    yield f"{_decibels(answer.psnr)} · {before:,} numbers became {after:,}, {answer.ratio:g} times fewer"
    for noised in answer.noised:
        yield f"  step {noised.step} of {answer.steps}  sigma {noised.sigma:.4g} · {_decibels(noised.psnr)}"


def _decibels(psnr: float | None) -> str:
    return "no pixel differs" if psnr is None else f"PSNR {psnr:.2f} dB"

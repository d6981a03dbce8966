"""`farm submit`: one command for each mode, one for grids, and one for files of many jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.batch import batch, drafting
from farm.cli.commands.roundtrip import roundtrip
from farm.cli.commands.sending import Yield, send
from farm.cli.options import parsing
from farm.cli.options.common import many_options, mixing_options, naming_options, refuse_many, request_options
from farm.cli.options.once import AXIS, Once
from farm.cli.options.request import fields, request
from farm.cli.view.output import note
from farm.errors import InvalidInput
from farm.jobs.spec import Mode

if TYPE_CHECKING:
    from farm.client import FarmClient
    from farm.client.client import Submission
    from farm.client.planning import Draft
    from farm.jobs.grid import Axis


@click.group(
    epilog="""\b
    Prompts:
      a (red) apple          red weighs 1.1 times as much, ((red)) 1.21 times
      a (red:1.3) apple      1.3 times;  a [red] apple  1/1.1 times
      a cat \\(asleep\\)       brackets as such;  --plain-prompt  all of them
      an otter BREAK a lake  the lake begins a new chunk of 75 tokens
      a <style> castle       an embedding that the worker knows; without < > too
      a cat <lora:soft:0.8>  with the LoRA soft; --lora soft:0.8 is the same
    """
)
def submit() -> None:
    """Queue pictures.

    The modes compose: --init, --mix-with and --loss go with every one of them that draws.
    """


submit.add_command(roundtrip)
submit.add_command(batch)


@submit.command(
    epilog="""\b
    Examples:
      farm submit txt2img "a watercolor painting of an otter"
      farm submit txt2img "a red apple" --count 8 --steps 50 --seed 7 --out renders
      farm submit txt2img "a lighthouse" --mix-with "a rocket:0.3" --trace video
      farm submit txt2img "a (red:1.3) apple, [a table]" --negative "(blurry:1.4)"
      farm submit txt2img "f(x) = [x]" --plain-prompt
    """
)
@click.argument("prompt")
@request_options
def txt2img(prompt: str, **options: Any) -> None:
    """A picture from a PROMPT.

    Words of it can weigh more or less, as 'farm submit --help' tells, and it can be long: no word is dropped.
    """
    _send("txt2img", [prompt], options)


@submit.command(
    epilog="""\b
    Examples:
      farm submit img2img "a green apple" --init apple.png --start-step 12 --steps 30
      farm submit img2img "the same in oil" --init photo.jpeg --strength 0.6 --fit init
      farm submit img2img "a blue hat" --init photo.png --mask hat.png --fill blur
      farm submit img2img "an eye" --init photo.png --mask eye.png --only-masked 32
      farm submit img2img "a beach" --init photo.png --outpaint left=128,right=128
    """
)
@click.argument("prompt")
@request_options
def img2img(prompt: str, **options: Any) -> None:
    """A picture from a PROMPT and the picture --init.

    Where to start: --start-step K skips the first K steps; --strength S redoes the last share S of them. With --mask
    only what is white there is redone, grey partly; with --outpaint only what is added: the rest stays, to the bit.
    """
    _send("img2img", [prompt], options)


@submit.command(
    epilog="""\b
    Examples:
      farm submit mix "a giraffe" "a cat"
      farm submit mix "a giraffe" "a cat" --mix 0.7
      farm submit mix "a fox" "an owl" "a rose" --weights 3,2,1
    """
)
@click.argument("prompts", metavar="PROMPT PROMPT…", nargs=-1, required=True)
@mixing_options
@request_options
def mix(prompts: tuple[str, ...], mix: float | None, weights: str | None, **options: Any) -> None:
    """A picture from several PROMPTs at once, their embeddings mixed."""
    _send("mix", prompts, options, mix=mix, weights=numbers(weights))


@submit.command(
    epilog="""\b
    Examples:
      farm submit guided "a puppy" --loss blue
      farm submit guided "a house" --loss color --loss-arg red=0.9 --loss-arg green=0.1 --loss-scale 100
      farm submit guided "a mask" --loss symmetry --loss color:red=0.1,blue=0.9,scale=100,every=2
    """
)
@click.argument("prompt")
@request_options
def guided(prompt: str, **options: Any) -> None:
    """A picture from a PROMPT, pulled along the gradient of a --loss."""
    _send("guided", [prompt], options)


_axis = partial(click.option, cls=Once, instead=AXIS, metavar="FIELD=V,V,…")


@submit.command(
    epilog="""\b
    Examples:
      farm submit grid "a red apple" --x guidance=1,3,7.5,12 --y steps=10,20,40 --out renders
      farm submit grid "a watercolor painting of a fox" --x "prompt=fox,owl,cat" --y seed=1,2,3
      farm submit grid "a giraffe" "a cat" --x mix=0,0.25,0.5,0.75,1 --y sampler=lms,euler
      farm submit grid "a lion" --loss blue:every=1 --guidance 4 --x losses.0.scale=0,10,25 --y losses.0.target=0.5,0.9
    """
)
@click.argument("prompts", metavar="PROMPT…", nargs=-1, required=True)
@_axis("--x", required=True, help="What changes from column to column.")
@_axis("--y", help="What changes from row to row.")
@_axis("--z", help="What changes from page to page.")
@mixing_options
@many_options
@request_options
def grid(
    prompts: tuple[str, ...],
    mix: float | None,
    weights: str | None,
    yes: bool,
    max_jobs: int,
    **options: Any,
) -> None:
    """A picture at every crossing of the values of up to three fields, all from one seed.

    FIELD is any that a batch file has, such as guidance, steps, sampler, schedule, seed, mix, negative, model,
    start_step or strength (with --init), losses.0.scale and losses.0.target (of the first --loss), mix_with.0.weight.
    A value with a comma in it is quoted as in CSV. The prompt is searched and replaced: prompt=cat,dog,owl puts each of
    the three in the place of "cat". 'farm sheet' lays the batch out by its axes; --out does so at once. Several PROMPTs
    are mixed.
    """
    from farm.jobs import grid as grids

    with naming_options():
        given, axes = grid_of(prompts, options, mix=mix, weights=numbers(weights))
        refuse_many(grids.count(given, axes), most=max_jobs, yes=yes)
        drafts: list[Draft] = []
        grids.requests(given, axes, check=drafting(drafts, dry_run=options["dry_run"]))
        send(drafts, options, yields=_A_SHEET)


def grid_of(
    prompts: Sequence[str], options: Mapping[str, Any], *, mix: float | None, weights: Sequence[float] | None
) -> tuple[dict[str, Any], Sequence[Axis]]:
    """The fields that all of a grid's requests have, and its axes. Raises `InvalidInput`."""
    from farm.jobs import grid as grids

    axes = [grids.parse_axis(options[name], name=name) for name in grids.AXES if options[name] is not None]
    return fields(_mode(prompts, options, axes), prompts, options, mix=mix, weights=weights), axes


def _mode(prompts: Sequence[str], options: Mapping[str, Any], axes: Sequence[Axis]) -> Mode:
    """What the modes are called that these options make."""
    if len(prompts) > 1:
        return "mix"
    if options["init"] or any(axis.field == "init" for axis in axes):
        return "img2img"
    return "guided" if options["loss"] else "txt2img"


def _sheet_beside(farm: FarmClient, submission: Submission, out: Path) -> None:
    from farm.cli.commands import tables

    try:
        tables.write_sheet(farm, submission.jobs, out / f"{submission.batch}.sheet.png")
    except InvalidInput as error:  # it has too many cells; the pictures are there all the same
        note(f"no sheet: {error}")


_A_SHEET = Yield("sheet", "farm sheet {batch}", _sheet_beside)


def numbers(weights: str | None) -> list[float] | None:
    """`3,2,1` as numbers. Raises `InvalidInput`."""
    return None if weights is None else list(parsing.weights(weights))


def _send(mode: Mode, prompts: Sequence[str], options: Mapping[str, Any], **more: Any) -> None:
    from farm.client.planning import drafted

    with naming_options():
        send(drafted([request(mode, prompts, options, **more)]), options)

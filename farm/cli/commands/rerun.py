"""`farm rerun`: render a picture again from what it says of itself, and see whether it is the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands import sending
from farm.cli.commands.pictures import means_file
from farm.cli.options import parsing
from farm.cli.options.common import naming_options, sending_options
from farm.cli.options.once import PICTURE, Once
from farm.cli.view.output import print_json, say
from farm.errors import InvalidInput
from farm.jobs.fields import field_name

if TYPE_CHECKING:
    from farm.client import FarmClient
    from farm.client.client import Submission
    from farm.client.differing import Difference
    from farm.client.planning import Draft
    from farm.client.rerun import Made

_FILE = click.Path(path_type=Path, dir_okay=False)
_file = partial(click.option, cls=Once, instead=PICTURE, type=_FILE, metavar="FILE")


@click.command(
    epilog="""\b
    Examples:
      farm rerun renders/0kz3mw7c9d2f4g5h-0003.png --wait
      farm rerun 0kz3mw7c9d2f4g5h-0003 --set steps=50 --set guidance=3 --out renders
      farm rerun photo-in-oil.png --init photo.jpeg --set losses.0.scale=40
    """
)
@click.argument("source", metavar="PICTURE.png|JOB")
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change a field, as batch files name it.")
@_file("--init", help="The picture that it started from.  [default: the bucket's]")
@_file("--mask", help="The mask that it had.  [default: the bucket's]")
@sending_options
def rerun(source: str, changes: tuple[str, ...], init: Path | None, mask: Path | None, **options: Any) -> None:
    """Render a picture again: with the same seed and settings, or with some of them changed.

    Everything comes from the picture alone, or from the job's result. Another prompt brings LoRAs of its own: those
    that only tags of the old one named are left out. With --wait or --out, and nothing changed, it says whether the
    bytes are the same, and if not, by how much the pixels differ, and which versions or devices do.
    """
    with naming_options():
        wanted = parsing.each_once(map(_change, changes), "--set")
    made, draft = _drafted(source, init, mask, wanted)
    sending.send([draft], options, afterwards=None if wanted else _comparison(made, source, as_json=options["as_json"]))


def _change(text: str) -> tuple[str, Any]:
    """`steps=50` as a field and its value: JSON where it is, else text."""
    written, equals, value = text.partition("=")
    if not equals or not written:
        raise InvalidInput(f"{text!r:.60} is not FIELD=VALUE", field="--set", hint="such as steps=50")
    try:
        field = field_name(written)
    except InvalidInput as error:
        raise InvalidInput(error.reason, field="--set", hint=error.hint) from error
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def _drafted(source: str, init: Path | None, mask: Path | None, changes: Mapping[str, Any]) -> tuple[Made, Draft]:
    """The picture, and what makes it again. A farm is asked only for what is in none of the files given."""
    from farm.client import FarmClient
    from farm.client.rerun import draft_again, init_of, mask_in, picture_file, picture_of

    start: Path | bytes | None = init
    masked: Path | bytes | None = mask
    if means_file(source):
        made = picture_file(Path(source))
        wanted = made.spec.start
        if (wanted.image is not None and init is None) or (wanted.mask is not None and mask is None):
            with FarmClient.connect() as farm:
                start, masked = init or init_of(farm, made), mask or mask_in(farm, made)
    else:
        with FarmClient.connect() as farm:
            jobs = farm.resolve([source])
            if len(jobs) != 1:
                raise InvalidInput(f"{source} has {len(jobs):,} jobs", hint=f"name one of them, such as {jobs[0]}")
            made = picture_of(farm, jobs[0])
            start, masked = init or init_of(farm, made), mask or mask_in(farm, made)
    with _naming_changes():
        return made, draft_again(made, start, changes, mask=masked)


@contextmanager
def _naming_changes() -> Iterator[None]:
    """Errors about a field, such as `outpaint.left`, name it as --set does: other options this command has not."""
    try:
        yield
    except InvalidInput as error:
        field = error.field
        if field is not None and not field.startswith("--"):
            field = f"--set {field}"
        raise InvalidInput(error.reason, field=field, hint=error.hint) from error


def _comparison(made: Made, source: str, *, as_json: bool) -> Callable[[FarmClient, Submission], None]:
    """Tells how the picture that was made again differs from the first, which is that of `source`."""

    def compare(farm: FarmClient, submission: Submission) -> None:
        from farm.client.differing import difference, with_result
        from farm.client.rerun import picture_of

        (job,) = submission.jobs
        found = difference(made if made.result else with_result(farm, made, Path(source)), picture_of(farm, job))
        if as_json:
            print_json({"job": job, **asdict(found)}, indent=None)
        else:
            say(*_told(job, made.spec.model, found))

    return compare


def _told(job: str, model: str, found: Difference) -> Iterator[str]:
    if found.same_bytes:
        yield f"{job}  the same bytes"
        return
    if not found.most:
        yield f"{job}  the same pixels; what the file says of them differs"
    else:
        levels = f"by {found.most} of 255 levels at most, {found.mean:.2g} on average"
        share = f"{found.pixels:.1%}" if found.pixels >= 0.001 else "less than 0.1%"
        yield f"{job}  {share} of the pixels differ, {levels}"
    yield from _why(model, found)


def _why(model: str, found: Difference) -> Iterator[str]:
    """What differed when the two were made, as far as that is known."""
    if found.versions is None:
        yield "  with what it was made then is not known: its job, named in place of the file, would say that"
        return
    for name, (then, now) in found.versions.items():
        yield f"  {name:<12} then {then}, now {now}"
    if found.other_weights:
        yield f"  the model '{model}' has other weights than it had then: another has its name now"
    elif found.unmarked:
        yield f"  no result says which weights were in {found.unmarked}: they may have been others then"
    if not found.versions:
        yield "  only workers with --deterministic give the same bytes whatever else they render"

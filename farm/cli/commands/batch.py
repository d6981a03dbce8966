"""`farm submit batch`: the many jobs that a file describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.losses import known_losses
from farm.cli.commands.sending import send
from farm.cli.options.common import many_options, refuse_many, sending_options
from farm.cli.view.output import note, plural
from farm.errors import InvalidInput
from farm.jobs.losses import BUILTIN, BUILTIN_NAMES, find
from farm.jobs.request import JobRequest

if TYPE_CHECKING:
    from farm.client.planning import Draft

STDIN = "-"


@click.command(
    epilog="""\b
    A file of 2 × 3 + 4 jobs, in YAML (JSON has the same form):

    \b
      defaults: {steps: 30, model: emoji, labels: {project: otters}}
      jobs:
        - prompt: a watercolor painting of an otter
          product: {sampler: [lms, euler], guidance: [3, 5, 7.5]}
        - mode: guided
          prompt: a puppy
          losses: [{name: blue, scale: 100}]
          zip:
            seed: [1, 2, 3, 4]
            losses.0.scale: [0, 50, 100, 200]

    \b
    Fields: mode prompt weights mix path mix_with negative reading clip_skip init start_step strength fit
    encode mask redo mask_blur fill only_masked outpaint loras losses guidance sampler schedule eta steps seed
    count width height original_size crop target_size model priority trace trace_every time_limit labels; of the
    mode roundtrip noise_steps.
    `zip` takes its lists in step, `product` every combination; with both, every pair of the two. A dotted name
    reaches into lists and mappings. A relative `init` or `mask` is looked for beside the file. `redo` is white
    or black: what of the mask is redone.

    \b
    Examples:
      farm submit batch otters.yaml --dry-run
      farm submit batch otters.yaml --wait --out renders
      generate-jobs | farm submit batch -
    """
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@many_options
@sending_options
def batch(file: Path, yes: bool, max_jobs: int, **options: Any) -> None:
    """The jobs that a YAML or JSON FILE describes (- for stdin)."""
    from farm.jobs import batch_file as sweep
    from farm.jobs import documents

    from_stdin = str(file) == STDIN
    source = "stdin" if from_stdin else str(file)
    with _naming(source):
        document = documents.parse(_read(file), is_json=file.suffix.lower() == ".json")
        number = sweep.count(document)
        refuse_many(number, most=max_jobs, yes=yes)
        folder = Path() if from_stdin else file.parent
        drafts: list[Draft] = []
        check = drafting(drafts, dry_run=options["dry_run"], source=source)
        sweep.expand(document, folder=folder, limit=sweep.MAX_JOBS, check=check)
    if not (options["as_json"] or options["dry_run"]):
        note(f"{source} makes {plural(number, 'job')}")
    send(drafts, options)


def drafting(
    drafts: list[Draft], *, dry_run: bool, source: str | None = None
) -> Callable[[Sequence[JobRequest]], None]:
    """What adds drafts of the requests of one entry of a batch file, so that an error can name the entry.

    It is called with one after the other; `source` is the file, so that an error of the farm can name it too.
    """
    from farm.client.planning import Pictures, draft

    pictures = Pictures()
    losses = cache(lambda: BUILTIN if dry_run else known_losses())
    positions = count(1)

    def add(entry: Sequence[JobRequest]) -> None:
        place = None if source is None else f"{source}: job {next(positions)}"
        drafts.extend(replace(draft(wanted, pictures), place=place) for wanted in entry)
        for loss in (loss for wanted in entry for loss in wanted.losses if loss.name not in BUILTIN_NAMES):
            find(loss.name, losses()).complete(loss.arguments)  # one that a worker of the farm adds, perhaps

    return add


def _read(file: Path) -> str:
    """The text of a batch file, or of stdin. Raises `InvalidInput` when it cannot be read, or is too large."""
    from farm.jobs.documents import MAX_FILE_BYTES

    try:
        with click.open_file(str(file), "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        return str(data.decode("utf-8-sig"))
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"is not UTF-8 text: {error.reason} at byte {error.start}", hint="save it in UTF-8"
        ) from error


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Errors name the file that they are in."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{source}: {error.message}", hint=error.hint) from error

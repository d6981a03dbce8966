"""`farm submit`: one command for each mode, and one for files of many jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.farm import known_losses
from farm.cli.commands.sending import send
from farm.cli.options import parsing
from farm.cli.options.common import naming_options, request, request_options, sending_options
from farm.cli.view.output import note, plural
from farm.errors import InvalidInput
from farm.jobs.losses import BUILTIN, BUILTIN_NAMES, find
from farm.jobs.request import JobRequest
from farm.jobs.spec import Mode

if TYPE_CHECKING:
    from farm.client.planning import Draft

STDIN = "-"


@click.group()
def submit() -> None:
    """Queue pictures.

    The modes compose: --init, --mix-with and --loss go with every one of them.
    """


@submit.command(
    epilog="""\b
    Examples:
      farm submit txt2img "a watercolor painting of an otter"
      farm submit txt2img "a red apple" --count 8 --steps 50 --seed 7 --out renders
      farm submit txt2img "a lighthouse" --mix-with "a rocket:0.3" --trace video
    """
)
@click.argument("prompt")
@request_options
def txt2img(prompt: str, **options: Any) -> None:
    """A picture from a PROMPT."""
    _send("txt2img", [prompt], options)


@submit.command(
    epilog="""\b
    Examples:
      farm submit img2img "a green apple" --init apple.png --start-step 12 --steps 30
      farm submit img2img "the same in oil" --init photo.jpeg --strength 0.6 --fit init
    """
)
@click.argument("prompt")
@request_options
def img2img(prompt: str, **options: Any) -> None:
    """A picture from a PROMPT and the picture --init.

    Where to start: --start-step K skips the first K steps; --strength S redoes the last share S of them.
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
@click.option(
    "--mix", type=float, metavar="SHARE", help="The first prompt's share of two; any number.  [default: half]"
)
@click.option("--weights", metavar="W,W,…", help="A weight for each prompt; only their ratio counts.")
@request_options
def mix(prompts: tuple[str, ...], mix: float | None, weights: str | None, **options: Any) -> None:
    """A picture from several PROMPTs at once, their embeddings mixed."""
    numbers = None if weights is None else parsing.weights(weights)
    _send("mix", prompts, options, mix=mix, weights=numbers)


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


@submit.command(
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
    Fields: mode prompt weights mix mix_with negative init start_step strength fit encode losses guidance
    sampler steps seed count width height model priority trace trace_every time_limit labels. `zip` takes
    its lists in step, `product` every combination; with both, every pair of the two. A dotted name
    reaches into lists and mappings. A relative `init` is looked for beside the file.

    \b
    Examples:
      farm submit batch otters.yaml --dry-run
      farm submit batch otters.yaml --wait --out renders
      generate-jobs | farm submit batch -
    """
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--yes", is_flag=True, help="Submit even more than --max-jobs.")
@click.option("--max-jobs", type=click.IntRange(min=1), default=1_000, show_default=True, help="Ask for --yes above.")
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
        if max_jobs < number <= sweep.MAX_JOBS and not yes:
            raise InvalidInput(f"makes {number:,} jobs, more than {max_jobs:,}", hint="add --yes if you mean it")
        folder = Path() if from_stdin else file.parent
        drafts: list[Draft] = []
        sweep.expand(document, folder=folder, limit=sweep.MAX_JOBS, check=_drafting(drafts, dry_run=options["dry_run"]))
    if not (options["as_json"] or options["dry_run"]):
        note(f"{source} makes {plural(number, 'job')}")
    send(drafts, options)


def _send(mode: Mode, prompts: Sequence[str], options: Mapping[str, Any], **more: Any) -> None:
    from farm.client.planning import drafted

    with naming_options():
        send(drafted([request(mode, prompts, options, **more)]), options)


def _drafting(drafts: list[Draft], *, dry_run: bool) -> Callable[[Sequence[JobRequest]], None]:
    """What adds drafts of the requests of one entry of a batch file, so that an error can name the entry."""
    from farm.client.planning import Pictures, draft

    pictures = Pictures()
    losses = cache(lambda: BUILTIN if dry_run else known_losses())

    def add(entry: Sequence[JobRequest]) -> None:
        drafts.extend(draft(wanted, pictures) for wanted in entry)
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

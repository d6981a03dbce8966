"""The options that commands share, and how faults name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from farm.cli.options.masking import REDOING
from farm.cli.options.once import PICTURE, Once
from farm.cli.view.output import json_option
from farm.errors import InvalidInput
from farm.jobs.batch_file import MAX_JOBS
from farm.jobs.losses import BUILTIN
from farm.jobs.request import JobRequest
from farm.jobs.samplers import KNOWN, SAMPLERS, SCHEDULES
from farm.jobs.spec import ENCODINGS, FITS, MIX_PATHS, TRACE_LEVELS
from farm.jobs.wanted import DEFAULT_PRIORITY, DEFAULT_STEPS

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


def _losses_completed(_: click.Context, __: click.Parameter, beginning: str) -> list[CompletionItem]:
    return [CompletionItem(loss.name, help=loss.help) for loss in BUILTIN if loss.name.startswith(beginning)]


def _samplers_completed(_: click.Context, __: click.Parameter, beginning: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=KNOWN[name].title) for name in SAMPLERS if name.startswith(beginning)]


def _schedules_completed(_: click.Context, __: click.Parameter, beginning: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in SCHEDULES if name.startswith(beginning)]


_SAMPLERS = f"The solver: {', '.join(SAMPLERS)}; A1111's and ComfyUI's names too."
_SAMPLER = click.option("--sampler", metavar="NAME", shell_complete=_samplers_completed, help=f"{_SAMPLERS}  [lms]")
_SCHEDULE = click.option(
    "--schedule",
    metavar="NAME",
    shell_complete=_schedules_completed,
    help=f"How noise levels are spaced: {', '.join(SCHEDULES)}.  [model]",
)
_ETA = click.option("--eta", type=float, help="Noise that steps add, 0 to 1.  [ddim: 0; ancestral and SDE samplers: 1]")
_COUNT = click.option("--count", type=int, default=1, show_default=True, help="Pictures, with consecutive seeds.")
_REQUEST = (
    click.option(
        "--negative",
        cls=Once,
        instead="put all of it in one",
        metavar="PROMPT",
        help="What the picture should not show.",
    ),
    click.option(
        "--plain-prompt",
        "reading",
        flag_value="plain",
        default=None,
        help="Read ( ) [ ] and BREAK as letters, and cut off what is longer than 75 tokens.",
    ),
    click.option("--clip-skip", type=int, metavar="N", help="Stop N - 1 layers early in the text encoder.  [1]"),
    click.option("--steps", type=int, default=DEFAULT_STEPS, show_default=True, help="Denoising steps, 1 to 1000."),
    click.option("--guidance", type=float, help="Pull of the prompt, -100 to 100; 1 is off.  [default: the model's]"),
    click.option("--seed", type=int, help="Where the noise comes from.  [default: random, recorded]"),
    _COUNT,
    click.option("--width", type=int, help="Pixels, a multiple of 8 from 64 to 2048.  [default: the model's]"),
    click.option("--height", type=int, help="Pixels, likewise.  [default: the model's]"),
    click.option(
        "--original-size",
        metavar="WxH",
        help="Tell SDXL how large the original was, such as 4096x4096.  [default: the picture's, or the model's own]",
    ),
    click.option(
        "--crop",
        metavar="X,Y",
        help="Tell it how many pixels were cut off on the left and above, such as 0,256.  [0,0, or the model's own]",
    ),
    click.option(
        "--target-size",
        metavar="WxH",
        help="Tell it to what size the original was cut.  [the picture's, or the model's own]",
    ),
    _SAMPLER,
    _SCHEDULE,
    _ETA,
    click.option("--model", metavar="NAME", help="The model to use.  [default: $FARM_MODEL, or the only one served]"),
    click.option(
        "--init",
        cls=Once,
        instead=PICTURE,
        type=_FILE,
        metavar="FILE",
        help="Start from this PNG, JPEG or WebP picture.",
    ),
    click.option("--start-step", type=int, metavar="K", help="With --init: skip the first K steps."),
    click.option("--strength", type=float, metavar="S", help="With --init: redo this share of the steps.  [0.75]"),
    click.option(
        "--fit",
        type=click.Choice(FITS),
        help="With --init of another shape: crop it, pad it, stretch it, or give the job its shape.  [crop]",
    ),
    click.option(
        "--encode",
        type=click.Choice(ENCODINGS),
        help="With --init: start from a sample of what the autoencoder makes of it, or from the mean.  [sample]",
    ),
    *REDOING,
    click.option(
        "--mix-with", multiple=True, metavar="PROMPT:WEIGHT", help="Mix in a prompt with this share, between 0 and 1."
    ),
    click.option(
        "--lora",
        multiple=True,
        metavar="NAME[:WEIGHT]",
        help="Add a LoRA ('farm loras' lists them): detail:0.8, or detail:unet=0.8,text=0.5.  [1]",
    ),
    click.option(
        "--loss",
        "loss",
        multiple=True,
        metavar="NAME[:K=V,…]",
        shell_complete=_losses_completed,
        help="Guide by a loss ('farm losses' lists them); its arguments, scale and every may follow inline.",
    ),
    click.option("--loss-arg", multiple=True, metavar="K=V", help="An argument of the one loss."),
    click.option("--loss-scale", type=float, metavar="X", help="How strongly the one loss pulls."),
    click.option("--loss-every", type=int, metavar="N", help="Apply the one loss at every N-th step.  [5]"),
    click.option(
        "--trace", type=click.Choice(TRACE_LEVELS), default="none", show_default=True, help="What to keep of the steps."
    ),
    click.option("--trace-every", type=int, metavar="N", help="Keep every N-th step.  [1]"),
    click.option(
        "--priority", type=int, default=DEFAULT_PRIORITY, show_default=True, metavar="0-9", help="9 is the most urgent."
    ),
    click.option("--time-limit", type=float, metavar="SECONDS", help="Fail the job if rendering takes longer."),
    click.option("--label", multiple=True, metavar="K=V", help="A label of your own, kept with the job."),
)

_LOOKING = (
    click.option("--previews", is_flag=True, help="Follow, and show in the terminal how the pictures take shape."),
    click.option("--previews-to", type=_FOLDER, metavar="DIR", help="Follow, and keep DIR/<job>.preview.png fresh."),
)

_PATH = click.option(
    "--path",
    type=click.Choice(MIX_PATHS),
    help="From one of two prompts to the other straight, or along the arc between their embeddings.  [linear]",
)
_MIXING = (
    click.option(
        "--mix", type=float, metavar="SHARE", help="The first prompt's share of two; any number.  [default: half]"
    ),
    click.option(
        "--weights",
        cls=Once,
        instead="put all weights in one, such as 3,2,1",
        metavar="W,W,…",
        help="A weight for each prompt; only their ratio counts.",
    ),
    _PATH,
)

_MANY = (
    click.option("--yes", is_flag=True, help="Submit even more than --max-jobs."),
    click.option(
        "--max-jobs", type=click.IntRange(min=1), default=1_000, show_default=True, help="Ask for --yes above."
    ),
)

_SENDING = (
    click.option("--wait", is_flag=True, help="Follow the jobs until they are over."),
    click.option("--out", type=_FOLDER, metavar="DIR", help="Wait, then fetch the pictures into DIR."),
    *_LOOKING,
    click.option("--dry-run", is_flag=True, help="Print the specs as JSON; connect to nothing."),
    json_option,
)


def request_options(command: F) -> F:
    """What can be said of one picture, then what to do with the submission."""
    return _decorated(command, (*_REQUEST, *_SENDING))


def sampler_options(command: F) -> F:
    """Which schedule is meant: `--sampler --schedule --eta`."""
    return _decorated(command, (_SAMPLER, _SCHEDULE, _ETA))


def schedule_options(command: F) -> F:
    """Which schedules are meant: `--sampler --schedule --eta`, of any number of samplers."""
    samplers = click.option(
        "--sampler",
        metavar="NAME",
        multiple=True,
        shell_complete=_samplers_completed,
        help=f"{_SAMPLERS} Repeatable.  [lms]",
    )
    return _decorated(command, (samplers, _SCHEDULE, _ETA))


def one_seed_options(command: F) -> F:
    """The same without `--count`."""
    return _decorated(command, (*(option for option in _REQUEST if option is not _COUNT), *_SENDING))


def mixing_options(command: F) -> F:
    """How several prompts are mixed: `--mix --weights --path`."""
    return _decorated(command, _MIXING)


def path_option(command: F) -> F:
    """By which way two prompts are mixed: `--path`."""
    return _decorated(command, (_PATH,))


def many_options(command: F) -> F:
    """What lets a command submit very many jobs: `--yes --max-jobs`."""
    return _decorated(command, _MANY)


def refuse_many(number: int, *, most: int, yes: bool) -> None:
    """Raise `InvalidInput` for more jobs than `--max-jobs` and no more than can be, unless they are meant."""
    if most < number <= MAX_JOBS and not yes:
        raise InvalidInput(f"makes {number:,} jobs, more than {most:,}", hint="add --yes if you mean it")


def sending_options(command: F) -> F:
    """What to do with a submission: `--wait --out --previews --previews-to --dry-run --json`."""
    return _decorated(command, _SENDING)


def looking_options(command: F) -> F:
    """How to look at jobs while they are followed: `--previews --previews-to`."""
    return _decorated(command, _LOOKING)


def _decorated(command: F, options: Sequence[Callable[[Any], Any]]) -> F:
    return reduce(lambda decorated, option: option(decorated), reversed(options), command)


@contextmanager
def naming_options() -> Iterator[None]:
    """Errors about a field, such as `start_step`, name the option instead: `--start-step`."""
    try:
        yield
    except InvalidInput as error:
        what, reason = option_of(error.field), error.reason
        if what in ("--loss", "--lora") and error.field and "." in error.field:  # one option fills several fields
            reason = f"{error.field.rpartition('.')[2]}: {reason}"
        raise InvalidInput(reason, field=what, hint=error.hint) from error


def option_of(field: str | None) -> str | None:
    """The option (or argument) that fills a field: `mix_with.0.weight` comes from `--mix-with`."""
    if field is None or field.startswith("--"):
        return field
    name, _, _ = field.replace("-", "_").partition(".")
    if name in ("prompt", "conditioning"):
        return "PROMPT"
    if name not in JobRequest.model_fields and name not in _SINGULAR:
        return field
    return "--" + _SINGULAR.get(name, name).replace("_", "-")


_SINGULAR = {
    **{
        "losses": "loss",
        "loras": "lora",
        "labels": "label",
        "loss": "loss",
        "noise_steps": "noise_step",
        "reading": "plain-prompt",
        "redo": "invert-mask",
    },
}

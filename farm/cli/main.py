"""The command `farm`: its table of commands, and what a person sees when something goes wrong.

Exit codes: 0 done; 1 it could not be done; 2 the input is not acceptable; 3 some jobs are not done;
130 interrupted. Whatever is not a `FarmError` is a bug and keeps its traceback.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from farm import __version__
from farm.cli import streams
from farm.cli.lazy import LazyCommand, LazyGroup
from farm.cli.view.output import JSON_WANTED, note
from farm.errors import FarmError
from farm.host import patience

INTERRUPTED = 130

SECTIONS = {
    "Submit": {
        "submit": LazyCommand("submit:submit", "Queue pictures: txt2img, img2img, mix, guided, batch, grid."),
        "morph": LazyCommand("morph:morph", "Queue a film from one prompt to another."),
        "rerun": LazyCommand("rerun:rerun", "Render a picture again, from what it says of itself."),
    },
    "Follow": {
        "list": LazyCommand("jobs:list_jobs", "List jobs, the newest first."),
        "status": LazyCommand("jobs:status", "Show jobs in detail."),
        "watch": LazyCommand("jobs:watch", "Follow jobs until they are over."),
        "cancel": LazyCommand("jobs:cancel", "Cancel queued and running jobs."),
        "priority": LazyCommand("jobs:priority", "Change the priority of queued jobs."),
        "retry": LazyCommand("jobs:retry", "Queue failed and cancelled jobs again."),
        "forget": LazyCommand("forget:forget", "Forget jobs that are over."),
    },
    "Fetch": {
        "fetch": LazyCommand("results:fetch", "Bring pictures and traces here, checked."),
        "sheet": LazyCommand("results:sheet", "Make one labelled sheet of many pictures."),
        "film": LazyCommand("film:film", "Make a film of many pictures."),
        "trace": LazyCommand("trace:trace", "Make one page of how a picture came to be."),
        "compare": LazyCommand("compare:compare", "Make one page of several jobs side by side."),
        "open": LazyCommand("open:open_job", "Show a picture, or its page, in the system's viewer."),
    },
    "Ask": {
        "tokens": LazyCommand("questions:tokens", "Show how a model reads a prompt, token by token."),
        "similar": LazyCommand("questions:similar", "Show how similar prompts are to a model."),
    },
    "Farm": {
        "demo": LazyCommand("demo:demo", "See it all: a local farm, a dozen jobs, a sheet."),
        "up": LazyCommand("stack:up", "Start a farm on this machine."),
        "down": LazyCommand("stack:down", "Stop the farm on this machine."),
        "doctor": LazyCommand("stack:doctor", "Check every part of the farm, and say how to mend it."),
        "recover": LazyCommand("recover:recover", "Rebuild a lost ledger from the bucket."),
        "worker": LazyCommand("worker:worker", "Render on this machine."),
        "schedule": LazyCommand("schedule:schedule", "Show the noise levels of a sampler's steps."),
        "bench": LazyCommand("bench:bench", "Compare the engine with diffusers on this machine."),
        "web": LazyCommand("web:web", "Serve the farm to browsers and programs, by HTTP."),
        "token": LazyCommand("token:token", "Make, list and remove tokens for 'farm web'."),
        "workers": LazyCommand("workers:workers", "List the live workers; drain some of them."),
        "models": LazyCommand("models:models", "List the models of the farm; add and remove some."),
        "loras": LazyCommand("loras:loras", "List the LoRAs of the farm; add and remove some."),
        "losses": LazyCommand("losses:losses", "List the losses that can guide a picture."),
        "completion": LazyCommand("completion:completion", "Print the shell's completion script."),
    },
}


class FarmCommand(LazyGroup):
    """The root: turns `FarmError` into a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FarmError as error:
            _tell(error, as_json=ctx.meta.get(JSON_WANTED, False))
            ctx.exit(error.exit_code)

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        arguments = sys.argv[1:] if args is None else list(args)
        run: Callable[[], Any] = partial(super().main, arguments, *rest, **extra, standalone_mode=False)
        if not standalone_mode:
            return run()
        try:
            # Commands return nothing; what comes back is the code of an `Exit`.
            sys.exit(run() or 0)
        except click.ClickException as error:
            if "--json" in arguments:  # the options may not have been understood as far as that
                _tell_program(type(error).__name__, error.format_message(), None)
            shown = io.StringIO()
            error.show(shown)
            note(*shown.getvalue().splitlines())
            sys.exit(error.exit_code)
        except click.Abort:
            note("farm: interrupted")
            sys.exit(INTERRUPTED)


@click.group(
    cls=FarmCommand,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
    Examples:
      farm demo
      farm up --detach
      farm submit txt2img "a watercolor painting of an otter" --wait --out renders
      farm watch 0kz3
    """,
)
@click.version_option(__version__, message="farm %(version)s")
def farm() -> None:
    """A render farm for Stable Diffusion.

    Jobs go into a queue from here; machines with GPUs (or patience) take them; pictures come back through a bucket.
    Without a farm of your own, 'farm up --detach' starts one on this machine.
    """


def main() -> None:
    """Run the command line."""
    streams.settle()
    patience.tell_of_silence(note)
    with streams.written():
        farm(prog_name="farm")


def _tell(error: FarmError, *, as_json: bool) -> None:
    if as_json:
        _tell_program(type(error).__name__, error.message, error.hint)
    first, *more = error.message.split("\n")  # the end of a log
    note(f"farm: {first}", *(f"    {line}" for line in more))
    if error.hint:
        note(f"  {error.hint}")


def _tell_program(kind: str, message: str, hint: str | None) -> None:
    click.echo(json.dumps({"error": {"type": kind, "message": message, "hint": hint}}))


if __name__ == "__main__":
    main()

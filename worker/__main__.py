"""`python -m worker`: run one worker process. `farm worker` starts one for each GPU."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import click

from farm import settings
from farm.errors import FarmError, InvalidInput
from farm.host.loglines import log_to_stderr
from farm.jobs.limits import Limits
from farm.jobs.spec import MAX_SIDE, MAX_STEPS, MIN_SIDE
from farm.ledger import redis_errors as access
from farm.ledger.timing import Timing
from farm.words import one_line
from worker.host.runtime import importing, settle

_MAX_NAME = 100


@click.command(context_settings={"show_default": True})
@click.option("--name", help="What the worker is called.  [default: the host's name]")
@click.option("--device", help="cpu, cuda, cuda:N or mps.  [default: the best there is]")
@click.option("--model", "models", multiple=True, metavar="NAME[=SOURCE]", help="A model to serve.  [default: all]")
@click.option("--model-cache-gb", type=click.FloatRange(0, min_open=True), help="Disk for files of the farm's models.")
@click.option(
    "--embedding", "embeddings", multiple=True, metavar="NAME=FILE", help="A textual inversion that prompts may name."
)
@click.option(
    "--embeddings",
    "embedding_folders",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A folder of them, each called as its .safetensors file is.",
)
@click.option("--slots", type=click.IntRange(1, 1024), help="Jobs in flight at once.")
@click.option("--rows", type=click.IntRange(2, 1024), help="Rows of one forward pass; a job with guidance takes two.")
@click.option("--deterministic", is_flag=True, help="The same bytes whatever the load, at some cost in speed.")
@click.option("--compile", is_flag=True, help="On a GPU, compile the models first: takes minutes, once.")
@click.option("--grace", type=click.FloatRange(0), default=25.0, help="Leave within this many seconds when asked to.")
@click.option(
    "--checkpoint-seconds", type=click.FloatRange(0), default=60.0, help="Checkpoint long jobs this often; 0: never."
)
@click.option(
    "--max-side", type=click.IntRange(MIN_SIDE, MAX_SIDE), help="Refuse pictures with a longer side, in pixels."
)
@click.option("--max-steps", type=click.IntRange(1, MAX_STEPS), help="Refuse jobs of more steps.")
@click.option("--max-seconds", type=click.FloatRange(0, min_open=True), help="Fail jobs that take longer to render.")
def main(
    models: tuple[str, ...],
    max_side: int | None,
    max_steps: int | None,
    max_seconds: float | None,
    **options: Any,
) -> None:
    """Take jobs off the farm's queues and render them."""
    settle()
    log_to_stderr(logging.INFO, "%(asctime)s %(levelname)-7s %(message)s")
    for chatty in ("celery", "kombu", "httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Celery warns of root because of pickled messages, which are never accepted here.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    # It also warns of jobs that Redis would deliver twice when a connection is lost; here the ledger decides.
    warnings.filterwarnings("ignore", message=r"\s*In Celery 5.1 we introduced an optional breaking change")
    try:
        _check_name(options["name"])
        timing = Timing.from_environment(os.environ)
        access.check(settings.load())  # before torch, for it takes seconds
        with importing():
            from worker.app import start  # imports torch, which takes seconds
            from worker.options import Options

        _quiet_libraries()
        limits = Limits(max_side, max_steps, max_seconds)
        start(Options(models=models, limits=limits, timing=timing, **options))
    except FarmError as error:
        click.echo(one_line(f"farm worker: {error.message}"), err=True)
        if error.hint:
            click.echo(one_line(f"  {error.hint}"), err=True)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _check_name(name: str | None) -> None:
    """A worker's name is part of its id, which everybody is shown."""
    if name is not None and not (0 < len(name) <= _MAX_NAME and name.isprintable()):
        raise InvalidInput(f"is not 1 to {_MAX_NAME} printable characters", field="--name")


def _quiet_libraries() -> None:
    """Loading bars are for terminals; a worker writes a log, and the libraries' own records go into that too."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    for library in (diffusers, transformers):
        library.disable_progress_bar()
        library.disable_default_handler()
        library.enable_propagation()


if __name__ == "__main__":
    main()

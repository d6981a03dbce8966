"""`farm open`: a picture, or the page of how it came to be, in the system's viewer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from farm.cli.commands.trace import tell_faults, written
from farm.cli.options.naming import job_argument, the_job
from farm.cli.view.opening import open_file
from farm.cli.view.output import say
from farm.cli.view.terminal_pictures import check_terminal, show_here
from farm.client import FarmClient
from farm.errors import InvalidInput


@click.command(
    epilog="""\b
    Examples:
      farm open 0kz3mw7c9d2f4g5h-0003
      farm open 0kz3 --trace
      farm open 0kz3 --here
    """
)
@job_argument
@click.option("--trace", "wants_page", is_flag=True, help="The page that 'farm trace' makes.")
@click.option("--here", is_flag=True, help="Draw the picture into the terminal.")
def open_job(name: str, wants_page: bool, here: bool) -> None:
    """Show a job's picture in the system's viewer, or here.

    Over SSH there may be no viewer: --here draws into any terminal, in its pixels if it is one of kitty's kind or knows
    sixel (iTerm2, WezTerm, foot and others), else in coloured blocks.

    The file is a temporary one, and its path is printed; 'farm fetch' and 'farm trace' bring it to stay.
    """
    if here and wants_page:
        raise InvalidInput("a page cannot be drawn into a terminal", field="here", hint="leave out --trace")
    if here:
        check_terminal()
    with FarmClient.connect() as farm:
        job = the_job(farm, name)
        farm.result(job)  # before there is a folder
        folder = Path(tempfile.mkdtemp(prefix="farm-"))
        if wants_page:
            path, seen = written(farm, job, folder)
            tell_faults(seen.faults)
        else:
            [fetched] = farm.fetch(job, folder)
            path = fetched.path
    say(str(path))
    if here:
        show_here(path)
    else:
        open_file(path)

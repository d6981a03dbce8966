"""`farm open`: a picture, or the page of how it came to be, in the system's viewer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from farm.cli.commands.trace import tell_faults, written
from farm.cli.options.naming import job_argument, the_job
from farm.cli.view.opening import open_file
from farm.cli.view.output import say
from farm.client import FarmClient


@click.command(
    epilog="""\b
    Examples:
      farm open 0kz3mw7c9d2f4g5h-0003
      farm open 0kz3 --trace
    """
)
@job_argument
@click.option("--trace", "wants_page", is_flag=True, help="The page that 'farm trace' makes.")
def open_job(name: str, wants_page: bool) -> None:
    """Show a job's picture in the system's viewer.

    The file is a temporary one, and its path is printed; 'farm fetch' and 'farm trace' bring it to stay.
    """
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
    open_file(path)

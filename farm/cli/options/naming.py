"""The arguments JOB|BATCH… and JOB of many commands, completed by the shell from the newest jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from farm.errors import FarmError, InvalidInput
from farm.words import one_line

if TYPE_CHECKING:
    from farm.client import FarmClient

F = TypeVar("F", bound=Callable[..., Any])
_OFFERED = 50


def jobs_argument(*, required: bool = True) -> Callable[[F], F]:
    """Give a command the parameter `names`: job ids, batch ids, or unique beginnings of batch ids."""
    return click.argument("names", metavar="JOB|BATCH…", nargs=-1, required=required, shell_complete=_newest)


def job_argument(command: F) -> F:
    """Give a command the parameter `name`, which `the_job` reads."""
    return click.argument("name", metavar="JOB", shell_complete=_newest)(command)


def the_job(farm: FarmClient, name: str) -> str:
    """The one job that a name means. Raises `JobNotFound`, and `InvalidInput` for a batch of several."""
    jobs = farm.resolve([name])
    if len(jobs) > 1:
        raise InvalidInput(
            f"'{name}' means {len(jobs):,} jobs", field="JOB", hint=f"name one of them, such as {jobs[0]}"
        )
    return jobs[0]


def _newest(_: click.Context, __: click.Parameter, beginning: str) -> list[CompletionItem]:
    from farm.client import FarmClient

    try:
        with FarmClient.connect() as farm:
            statuses = farm.list(limit=_OFFERED)
    except FarmError:
        return []
    offered = dict.fromkeys(name for status in statuses for name in (status.batch, status.id))
    prompts = {status.id: one_line(status.prompt) for status in statuses}
    return [CompletionItem(name, help=prompts.get(name)) for name in offered if name.startswith(beginning)]

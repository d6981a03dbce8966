"""`farm forget`: jobs that are over leave the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from farm import keys
from farm.cli.options.naming import jobs_argument
from farm.cli.view.output import confirmed, json_option, note, plural, print_json, say
from farm.errors import InvalidInput, WrongState
from farm.jobs.status import TERMINAL, State

if TYPE_CHECKING:
    from farm.client import FarmClient

_STATES = sorted(TERMINAL)
_AT_ONCE = 20_000


@click.command(
    epilog="""\b
    Examples:
      farm forget 0kz3
      farm forget --older-than 30d --state failed --state cancelled
      farm forget --older-than 90d --objects --dry-run
    """
)
@jobs_argument(required=False)
@click.option("--older-than", metavar="AGE", help="Jobs that have been over for at least this long: 30d, 12h, 90m.")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="With --older-than: only these.")
@click.option("--objects", is_flag=True, help="Delete their pictures and traces from the bucket as well.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say which jobs it would be.")
@json_option
def forget(
    names: tuple[str, ...],
    older_than: str | None,
    states: tuple[State, ...],
    objects: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Forget jobs that are over: their records leave the ledger.

    Never one that is queued or running. What is forgotten is not brought back by 'farm recover'. With --json: the ids
    of the jobs that were forgotten, or would be.
    """
    from farm.client import FarmClient
    from farm.client import forget as forgetting
    from farm.variables import age

    if bool(names) == bool(older_than):
        raise InvalidInput("name the jobs or batches to forget, or give --older-than")
    if states and names:
        raise InvalidInput("goes with --older-than", field="state")
    seconds = age(older_than, field="older-than") if older_than else 0.0
    with FarmClient.connect() as farm:
        jobs = _named(farm, names) if names else _oldest(farm, states or _STATES, seconds)
        if jobs and not dry_run:
            what = plural(len(jobs), "job") + (" and delete what they made" if objects else "")
            if not yes and not confirmed(f"Forget {what}?"):
                raise click.exceptions.Exit(1)
            farm.check_bucket()
            jobs = forgetting.forget(farm.ledger, farm.storage, jobs, objects=objects)
    if as_json:
        return print_json(jobs)
    say(f"{plural(len(jobs), 'job')} {'would be forgotten' if dry_run else 'forgotten'}")


def _named(farm: FarmClient, names: Sequence[str]) -> list[str]:
    """The jobs meant by `names` that are over, or of which there is no record. Raises `WrongState` if none is."""
    named = [job for name in names for job in ([name] if keys.is_job_id(name) else farm.resolve([name]))]
    at_work = {status.id for status in farm.ledger.get_many(named) if not status.is_over}
    jobs = [job for job in dict.fromkeys(named) if job not in at_work]
    if not jobs:
        raise WrongState("nothing to forget: all are queued or running", hint="'farm cancel' ends a job")
    return jobs


def _oldest(farm: FarmClient, states: Sequence[State], seconds: float) -> list[str]:
    """The jobs that have been in one of the states for that long, as many as are forgotten at once."""
    jobs = farm.ledger.expired(states, older_than=seconds, limit=_AT_ONCE)
    if len(jobs) == _AT_ONCE:
        note(f"these are the oldest {_AT_ONCE:,}: run it again for the others")
    return jobs

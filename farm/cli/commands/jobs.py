"""`farm list`, `status`, `watch`, `cancel`, `priority` and `retry`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.options.common import looking_options
from farm.cli.options.naming import jobs_argument
from farm.cli.options.once import Once
from farm.cli.view.job_log import log_lines
from farm.cli.view.jobs import details, table_of
from farm.cli.view.output import confirmed, console, json_option, note, note_unreadable, plural, print_json, say
from farm.cli.view.progress import exit_unless_done, follow
from farm.client import FarmClient
from farm.errors import InvalidInput, WrongState
from farm.jobs.status import STATES, TERMINAL, JobStatus, State

if TYPE_CHECKING:
    from farm.bucket.job_log import AttemptLog
    from farm.ledger.records import Prioritised


@click.command(
    epilog="""\b
    Examples:
      farm list
      farm list --state failed --limit 200
      farm list --json | jq -r '.[].id'
    """
)
@click.option(
    "--state",
    cls=Once,
    instead="name one state, or none",
    type=click.Choice(STATES),
    help="Only jobs in this state.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Jobs on a page.")
@click.option("--page", type=click.IntRange(min=1), default=1, show_default=True, help="Which page, from 1.")
@json_option
def list_jobs(state: State | None, limit: int, page: int, as_json: bool) -> None:
    """List jobs, the newest first.

    Where one that waits or runs has another priority than 5, it is shown. With --json: a list of what 'farm status
    --json' prints.
    """
    with FarmClient.connect() as farm:
        jobs = farm.ledger.newest(state=state, limit=limit, offset=(page - 1) * limit)
        statuses = farm.ledger.get_many(jobs)
        counts = None if as_json else farm.ledger.counts()
        quarantined = {} if as_json else farm.ledger.quarantined()
    note_unreadable(len(jobs) - len(statuses))
    if counts is None:
        return print_json([status.model_dump(mode="json") for status in statuses])
    if statuses:
        console().print(table_of(statuses))
    totals = [f"{number:,} {name}" for name, number in counts.items() if number]
    if quarantined:
        totals.append(f"{len(quarantined):,} in quarantine ('farm recover' rebuilds them)")
    note("  ".join(totals) or "no jobs yet")


@click.command(
    epilog="""\b
    Examples:
      farm status 0kz3mw7c9d2f4g5h-0003
      farm status 0kz3 --json
      farm status 0kz3mw7c9d2f4g5h-0003 --log
    """
)
@jobs_argument()
@click.option("--log", "with_logs", is_flag=True, help="And what workers logged of them: why one was tried again.")
@json_option
def status(names: tuple[str, ...], with_logs: bool, as_json: bool) -> None:
    """Show jobs in detail.

    With --json: a list of {id, batch, state, step, steps, attempt, worker, model, priority, submitted, started,
    finished, error: {kind, message}, result, prompt, labels, warnings, losses}; times are UTC, what is not yet
    known is null.
    --log adds log: a list of {job, attempt, worker, lines: [{at, level, text}], left_out}, the last lines of the last
    attempts that were anything but a plain success.
    """
    with FarmClient.connect() as farm:
        jobs = farm.resolve(names)
        statuses = farm.ledger.get_many(jobs)
        specs = {} if as_json else farm.ledger.specs(jobs)
        waiting = {status.model for status in statuses if status.state == "queued"}
        held_up = farm.held_up(waiting) if waiting and not as_json else {}
        logs = {status.id: farm.logs(status.id) for status in statuses} if with_logs else {}
    note_unreadable(len(jobs) - len(statuses))
    if as_json:
        return print_json([_as_json(status, logs.get(status.id)) for status in statuses])
    for position, status in enumerate(statuses):
        click.echo(("\n" if position else "") + click.style(status.id, bold=True), nl=False)
        say(*details(status, specs.get(status.id), held_up.get(status.model)))
        if with_logs:
            say(*log_lines(status, logs[status.id]))


@click.command(
    epilog="""\b
    Examples:
      farm watch 0kz3
      farm watch 0kz3 --previews
      farm watch 0kz3 --json | jq -r 'select(.state == "done").id'
    """
)
@jobs_argument()
@looking_options
@json_option
def watch(names: tuple[str, ...], previews: bool, previews_to: Path | None, as_json: bool) -> None:
    """Follow jobs until they are over: live bars in a terminal, else a line for each change.

    Workers make previews only while somebody looks, for 16 jobs at a time. Ctrl-C leaves the jobs running. Exit code 3
    if a job failed or was cancelled, or has no record that can be read. With --json: one line per change, each what
    'farm status --json' prints.
    """
    if previews or previews_to:
        from farm.cli.view import looking

        looking.check(previews, previews_to, as_json=as_json)
    with FarmClient.connect() as farm:
        jobs = farm.resolve(names)
        unreadable = len(jobs) - len(farm.ledger.get_many(jobs))
        note_unreadable(unreadable)
        exit_unless_done(
            follow(farm, jobs, as_json=as_json, previews=previews, previews_to=previews_to), unknown=unreadable
        )


@click.command(
    epilog="""\b
    Examples:
      farm cancel 0kz3
      farm cancel --all
    """
)
@jobs_argument(required=False)
@click.option("--all", "everything", is_flag=True, help="Every queued and running job of the farm, anyone's.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@json_option
def cancel(names: tuple[str, ...], everything: bool, yes: bool, as_json: bool) -> None:
    """Cancel queued and running jobs.

    A running job stops at its next step. With --json: the state that each job was in.
    """
    if bool(names) == everything:
        raise InvalidInput("name the jobs or batches to cancel, or give --all")
    with FarmClient.connect() as farm:
        if everything:
            counts = farm.ledger.counts()
            number = counts["queued"] + counts["running"]
            if number and not yes and not confirmed(f"Cancel {plural(number, 'job')} of this farm?"):
                raise click.exceptions.Exit(1)
            before = farm.cancel_all()
        else:
            before = farm.cancel(names)
    if as_json:
        return print_json(before)
    if before:
        _tell_cancelled(before)
    else:
        say("nothing to cancel: no job is queued or running")


@click.command(
    epilog="""\b
    Examples:
      farm priority 0kz3 --set 8
      farm priority 0kz3mw7c9d2f4g5h-0003 0kz4 --by -1
    """
)
@jobs_argument()
@click.option("--set", "wanted", type=click.IntRange(0, 9), metavar="N", help="To this; 9 is the most urgent.")
@click.option("--by", type=int, metavar="N", help="By so much; below 0 it is lowered.")
@json_option
def priority(names: tuple[str, ...], wanted: int | None, by: int | None, as_json: bool) -> None:
    """Change the priority of queued jobs.

    Of a batch, only those that are queued: what runs goes on. Jobs have priority 5 unless they were submitted with
    another. With --json: for each job {state, before, priority}; `before` is the priority that it had.
    """
    if (wanted is None) == (by is None):
        raise InvalidInput("give --set, the priority they are to have, or --by, how much to raise it")
    with FarmClient.connect() as farm:
        told = farm.prioritise(names, wanted, by=by)
    if not any(one.state == "queued" for one in told.values()):
        states = _by_state(told.values())
        raise WrongState(f"nothing to change: {states or 'no job'}", hint="only queued jobs have a priority to change")
    if as_json:
        return print_json({job: asdict(one) for job, one in told.items()})
    _tell_prioritised(told)


@click.command(
    epilog="""\b
    Examples:
      farm retry 0kz3mw7c9d2f4g5h-0003
      farm retry 0kz3
    """
)
@jobs_argument()
@json_option
def retry(names: tuple[str, ...], as_json: bool) -> None:
    """Queue failed and cancelled jobs again.

    Of a batch, only those. None is queued if the farm keeps a LoRA of one no longer. With --json: the ids of the jobs
    that are queued now.
    """
    with FarmClient.connect() as farm:
        again = farm.retry(names)
    if as_json:
        return print_json(again)
    say(f"{plural(len(again), 'job')} queued again")


def _as_json(status: JobStatus, logs: Sequence[AttemptLog] | None) -> dict[str, Any]:
    told = status.model_dump(mode="json")
    return told if logs is None else {**told, "log": [log.model_dump(mode="json") for log in logs]}


def _tell_cancelled(before: dict[str, State]) -> None:
    cancelled = sum(state not in TERMINAL for state in before.values())
    over = Counter(state for state in before.values() if state in TERMINAL)
    rest = ", ".join(f"{number:,} {state}" for state, number in over.items())
    if not cancelled and set(over) - {"cancelled"}:
        raise WrongState(f"nothing to cancel: {rest} already")
    say(f"{plural(cancelled, 'job')} cancelled" + (f" ({rest} already)" if rest else ""))


def _tell_prioritised(told: dict[str, Prioritised]) -> None:
    queued = Counter(one.priority for one in told.values() if one.state == "queued")
    rest = _by_state(one for one in told.values() if one.state != "queued")
    for priority, number in sorted(queued.items(), reverse=True):
        say(f"{plural(number, 'job')} with priority {priority}")
    if rest:
        note(f"left as they are: {rest}")


def _by_state(told: Iterable[Prioritised]) -> str:
    return ", ".join(f"{number:,} {state}" for state, number in Counter(one.state for one in told).items())

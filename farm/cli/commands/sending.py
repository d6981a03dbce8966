"""What happens to requests once they are drafted: a dry run, or a submission, followed and fetched on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from farm.cli.view.output import note, plural, print_json, say
from farm.host.places import check_folder

if TYPE_CHECKING:
    from pathlib import Path

    from farm.client import FarmClient
    from farm.client.client import Submission
    from farm.client.planning import Draft
    from farm.jobs.spec import JobSpec


@dataclass(frozen=True)
class Yield:
    """What is made of all of a batch's pictures: what it is called, what makes it at any time, and what does so now.

    `command` has the batch as `{batch}`; `make` is called with the folder that the pictures were fetched to.
    """

    what: str
    command: str
    make: Callable[[FarmClient, Submission, Path], None]


def send(
    drafts: Sequence[Draft],
    options: Mapping[str, Any],
    *,
    yields: Yield | None = None,
    afterwards: Callable[[FarmClient, Submission], None] | None = None,
) -> None:
    """Do what the sending options say. Exits with 3 if jobs were waited for and not all are done.

    What the batch `yields` is made once its pictures are fetched; else it is said how to make it. If the jobs were
    waited for and all are done, `afterwards` is called.
    """
    if options["dry_run"]:
        from farm.client.planning import dry_run
        from farm.client.warnings import of_prompts

        for warning in of_prompts(draft.request for draft in drafts):
            note(f"warning: {warning}")
        return print_json({"jobs": [_planned(job) for job in dry_run(drafts)]})
    from farm.client import FarmClient

    follows = _follows(options)
    with FarmClient.connect() as farm:
        submission = farm.submit(drafts)
        _tell(submission, options)
        if not (options["as_json"] or options["out"]):
            _tell_what_next(submission, yields, follows=follows)
        if follows:
            _see_through(farm, submission, options, yields)
            if afterwards:
                afterwards(farm, submission)


def _follows(options: Mapping[str, Any]) -> bool:
    """Whether the jobs are to be followed. Raises `InvalidInput` if their pictures could not be kept or shown then."""
    if options["out"]:
        check_folder(options["out"], option="--out")
    if options["previews"] or options["previews_to"]:
        from farm.cli.view import looking

        looking.check(options["previews"], options["previews_to"], as_json=options["as_json"])
    return any(options[name] for name in ("wait", "out", "previews", "previews_to"))


def _planned(job: Any) -> dict[str, Any]:
    return {"spec": job.spec.model_dump(mode="json"), "priority": job.priority, "labels": job.labels}


def _tell(submission: Submission, options: Mapping[str, Any]) -> None:
    seeds = [spec.seed for spec in submission.specs]
    if options["as_json"]:
        told = {"batch": submission.batch, "jobs": submission.jobs, "seeds": seeds, "warnings": submission.warnings}
        print_json(told, indent=None)  # the changes that --wait prints follow as lines
    else:
        say(f"{submission.batch}  {_described(submission.specs)}")
    for warning in submission.warnings:
        note(f"warning: {warning}")


def _tell_what_next(submission: Submission, yields: Yield | None, *, follows: bool) -> None:
    """What to type to follow the jobs, unless that is done, and to have their pictures and what they yield."""
    batch = submission.batch
    if not follows:
        note(f"  follow  farm watch {batch}", f"  fetch   farm fetch {batch} --out renders")
    if yields:
        note(f"  {yields.what:<7} {yields.command.format(batch=batch)}")


def _described(specs: Sequence[JobSpec]) -> str:
    """`4 jobs · model emoji · seeds 7 to 10`."""
    models = sorted({spec.model for spec in specs})
    seeds = [spec.seed for spec in specs]
    if len(seeds) == 1:
        drawn = f"seed {seeds[0]}"
    elif seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        drawn = f"seeds {seeds[0]} to {seeds[-1]}"
    else:
        drawn = "various seeds" if len(set(seeds)) > 1 else f"seed {seeds[0]} for each"
    return f"{plural(len(specs), 'job')} · model{'s' if len(models) > 1 else ''} {', '.join(models)} · {drawn}"


def _see_through(farm: FarmClient, submission: Submission, options: Mapping[str, Any], yields: Yield | None) -> None:
    from farm.cli.commands import fetching
    from farm.cli.view import progress

    how = {name: options[name] for name in ("as_json", "previews", "previews_to")}
    statuses = progress.follow(farm, submission.jobs, said=submission.warnings, **how)
    if out := options["out"]:
        done = [status.id for status in statuses if status.state == "done"]
        haul = fetching.fetch_all(farm, done, out, everything=False, overwrite=False)
        fetching.tell(haul, out)
        if haul.errors:
            raise click.exceptions.Exit(1)
        if yields and done:
            yields.make(farm, submission, out)
    progress.exit_unless_done(statuses)

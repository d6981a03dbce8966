"""`farm recover`: the ledger again, from what the bucket holds."""

from __future__ import annotations

from dataclasses import asdict

import click

from farm.cli.view.output import json_option, note, plural, print_json, say


@click.command(
    epilog="""\b
    Examples:
      farm recover
      farm recover --json
      farm recover --adopt-bucket
    """
)
@click.option("--adopt-bucket", is_flag=True, help="Make the ledger belong to this bucket from now on.")
@json_option
def recover(adopt_bucket: bool, as_json: bool) -> None:
    """Rebuild the ledger from the bucket, after Redis was lost.

    Jobs with a result are recorded as done, all others are queued again: even those that had failed or were
    cancelled, which the bucket does not know. Jobs that the ledger has are left alone; damaged records are rebuilt,
    and indexes put right. With --json: {batches, done, queued, damaged, anew, indexed, unexplained}.

    A ledger that belongs to another bucket is refused. With --adopt-bucket it takes the one that the environment
    names: for a bucket that was moved, copied or made again on purpose. Start the workers again afterwards.
    """
    from farm.client import FarmClient
    from farm.client.recover import recover as rebuild

    with FarmClient.connect() as farm:
        found = rebuild(farm, adopt=adopt_bucket)
    if as_json:
        return print_json(asdict(found))
    say(
        f"{found.batches:,} {'batch' if found.batches == 1 else 'batches'}: {found.done:,} done, "
        f"{plural(found.queued, 'job')} queued"
    )
    if adopt_bucket:
        note(f"the ledger belongs to the bucket '{farm.settings.s3_bucket}' now: start the workers again with it")
    if found.anew:
        note(f"{plural(found.anew, 'record')} partly lost or damaged: rebuilt")
    if found.indexed:
        note(f"{plural(found.indexed, 'job')} missing from an index: put right")
    for job in found.unexplained:
        note(f"warning: job {job} stays in quarantine: no manifest in the bucket names it")
    for key in found.damaged:
        note(f"warning: {key} is damaged and was skipped")

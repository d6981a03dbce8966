"""`farm loras`: what the farm can add to its models' weights, and adding to and removing from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.kept import name_and_source, progress_bar, what_was_sent
from farm.cli.view.output import age, console, json_option, note, plural, print_json, say, size

if TYPE_CHECKING:
    from farm.bucket.loras import StoredLora
    from farm.cli.view.columns import Columns
    from farm.client.loras import FileBefore


@click.group(
    invoke_without_command=True,
    epilog="""\b
    Examples:
      farm loras
      farm loras --json
    """,
)
@json_option
@click.pass_context
def loras(context: click.Context, as_json: bool) -> None:
    """List the LoRAs of the farm.

    Jobs name them by --lora, or in a prompt: "a cat <lora:detail:0.8>". With --json: a list of {name, kind, ranks,
    unet, text, title, base, size, sha256, short_hash, source, added}; `unet` and `text` say on what it acts, `title`
    and `base` are its trainer's words, and `short_hash` is what A1111 knows it by.
    """
    if context.invoked_subcommand is not None:
        return
    from farm.bucket.loras import LORAS
    from farm.client import FarmClient
    from farm.client.kept import all_kept

    with FarmClient.connect() as farm:
        stored, trouble = all_kept(farm, LORAS)
    known = [stored[name] for name in sorted(stored)]
    if as_json:
        print_json([_facts(kept) for kept in known])
    elif known:
        console().print(_table(known))
    else:
        note("the farm has no LoRAs: 'farm loras add NAME=FILE' adds one")
    if trouble:
        note(*(f"farm: {line}" for line in trouble))


@loras.command(
    epilog="""\b
    Examples:
      farm loras add detail=/loras/add_detail.safetensors
      farm submit txt2img "a castle" --lora detail:0.8
    """
)
@click.argument("lora", metavar="NAME=FILE")
@click.option("--replace", is_flag=True, help="Put it in the place of another LoRA of that name.")
@click.option("--again", is_flag=True, help="Send it again, which mends what is damaged in the bucket.")
@json_option
def add(lora: str, replace: bool, again: bool, as_json: bool) -> None:
    """Keep a LoRA in the farm, for the jobs of every worker.

    FILE is a .safetensors file on this machine: a LoRA, LoCon, LoHa, LoKr or DoRA for Stable Diffusion 1, 2 or XL. It
    is sent to the bucket once, by what is in it. The file of another that is replaced is deleted, unless another name
    has it or jobs wait for it: pictures made with it cannot be made again.

    With --json: as 'farm loras --json' says of it, `sent`, in bytes, and `before`, of the file that it takes the place
    of: null or {sha256, deleted, names}; `names` are those that have it still.
    """
    from farm.client import FarmClient
    from farm.client import loras as keeping

    name, file = name_and_source(lora, "NAME=FILE", example="detail=/loras/add_detail.safetensors")
    with FarmClient.connect() as farm:
        farm.check_bucket()
        with progress_bar() as progress:
            added = keeping.add(farm.ledger, farm.storage, name, file, replace=replace, again=again, progress=progress)
    if as_json:
        before = asdict(added.before) if added.before else None
        return print_json({**_facts(added.lora), "sent": added.sent, "before": before})
    say(f"{name}: {_described(added.lora)}, {what_was_sent(added.sent)}")
    if added.before:
        say(_fate("the file before", added.before))


@loras.command(
    epilog="""\b
    Examples:
      farm loras show detail
      farm loras show detail --json | jq .sha256
    """
)
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a LoRA that the farm keeps: what it is for, where it is from.

    With --json: as 'farm loras --json' says of it.
    """
    from farm.bucket.loras import LORAS
    from farm.client import FarmClient

    with FarmClient.connect() as farm:
        farm.check_bucket(only_to_read=True)
        kept = LORAS.read(farm.storage, name)
    if as_json:
        return print_json(_facts(kept))
    say(f"{name}: {_described(kept)}, from {kept.source}, added {kept.added:%Y-%m-%d %H:%M} UTC")
    acts = [part for part, is_so in (("the UNet", kept.unet), ("text encoders", kept.text)) if is_so]
    say(f"acts on {' and '.join(acts) or 'nothing'}")
    if kept.title or kept.base:
        say(f"its trainer calls it {kept.title or 'nothing'}, made from {kept.base or 'a model unnamed'}")
    say(f"SHA-256 {kept.file.sha256}, short hash {kept.short_hash}")


@loras.command(
    epilog="""\b
    Examples:
      farm loras remove detail
      farm loras remove detail --force
    """
)
@click.argument("name")
@click.option("--force", is_flag=True, help="Even while jobs wait for it, which fail then.")
@json_option
def remove(name: str, force: bool, as_json: bool) -> None:
    """Keep a LoRA no longer: its file is deleted from the bucket, unless another name has the same.

    Pictures made with a file that is deleted cannot be made again. With --json: {name, freed, waiting, before}: `freed`
    is in bytes, `waiting` are the jobs that waited for it, and `before` is {sha256, deleted, names} of its file.
    """
    from farm.client import FarmClient
    from farm.client import loras as keeping

    with FarmClient.connect() as farm:
        farm.check_bucket()
        removed = keeping.remove(farm.ledger, farm.storage, name, force=force)
    if as_json:
        before = asdict(removed.before) if removed.before else None
        return print_json({"name": name, "freed": removed.freed, "waiting": removed.waiting, "before": before})
    say(f"{name} is removed; {size(removed.freed)} were deleted")
    if removed.before:
        say(_fate("its file", removed.before))
    if removed.waiting and removed.before and removed.before.deleted:
        wait, fail = ("waits", "fails") if removed.waiting == 1 else ("wait", "fail")
        note(f"{plural(removed.waiting, 'job')} {wait} for it and {fail}, but where a worker has it in memory")


def _fate(what: str, file: FileBefore) -> str:
    """What became of a file, and what that means for pictures made with it."""
    told = f"{what} ({file.sha256[:12]}…)"
    if file.deleted:
        return f"{told} was deleted: pictures made with it cannot be made again"
    if file.names:
        return f"{told} stays: {' and '.join(repr(name) for name in file.names[:3])} {_have(file.names)} it too"
    return f"{told} stays while jobs wait for it; after that, pictures made with it cannot be made again"


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _described(kept: StoredLora) -> str:
    from farm.bucket.models import KINDS

    return f"for {KINDS[kept.kind]}, {_rank(kept)}, {size(kept.size)}"


def _rank(kept: StoredLora) -> str:
    """`rank 16`, of several `ranks 4 to 64`, and of full matrices `no rank`."""
    if not kept.ranks:
        return "no rank"
    least, most = kept.ranks[0], kept.ranks[-1]
    return f"rank {least}" if least == most else f"ranks {least} to {most}"


def _facts(kept: StoredLora) -> dict[str, Any]:
    facts = kept.model_dump(mode="json", exclude={"version", "files"})
    return {**facts, "size": kept.size, "sha256": kept.file.sha256}


def _table(known: Sequence[StoredLora]) -> Columns:
    from farm.bucket.models import KINDS
    from farm.cli.view.columns import Columns

    rows = Columns(
        *("LoRA", "for", "rank", "size", "sha256", "added"),
        right=("size",),
        dropped=("sha256", "added", "rank"),
    )
    for kept in known:
        rows.add(
            kept.name, KINDS[kept.kind], _rank(kept), size(kept.size), kept.file.sha256[:12], f"{age(kept.added)} ago"
        )
    return rows

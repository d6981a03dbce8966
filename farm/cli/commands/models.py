"""`farm models`: what the farm can render with, and adding to and removing from what it keeps itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.kept import name_and_source, progress_bar, what_was_sent
from farm.cli.view.output import console, json_option, note, print_json, say, size

if TYPE_CHECKING:
    from farm.bucket.models import StoredModel
    from farm.cli.view.columns import Columns
    from farm.client.services import ModelService


@click.group(
    invoke_without_command=True,
    epilog="""\b
    Examples:
      farm models
      farm models --json
    """,
)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models of the farm: those that it keeps, is served, or has jobs for.

    With --json: a list of {name, workers, warm, refused, waiting, kind, size, source, options, added}; `warm` are the
    workers that have it in memory, `refused` says by worker why others do not serve it, `waiting` is how many jobs are
    queued for it, and the last five are null of a model that the farm does not keep itself.
    """
    if context.invoked_subcommand is not None:
        return
    from farm.bucket.models import MODELS
    from farm.client import FarmClient
    from farm.client.kept import all_kept

    with FarmClient.connect() as farm:
        stored, trouble = all_kept(farm, MODELS)
        services = {service.name: service for service in farm.models()}
    known = [_told(name, services.get(name), stored.get(name)) for name in sorted({*services, *stored})]
    if as_json:
        print_json(known)
    elif known:
        console().print(_table(known))
        for line in (f"{model['name']}: {why}" for model in known for why in _refusals(model)):
            note(line)
    else:
        note("the farm has no models: 'farm models add' adds one, and 'farm worker' serves the one that comes along")
    if trouble:
        note(*(f"farm: {line}" for line in trouble))


@models.command(
    epilog="""\b
    Examples:
      farm models add mine=/models/mine
      farm models add mine=/models/mine.safetensors
      farm models add second=/models/v2.safetensors#config=/models/stable-diffusion-2-1
      farm models add noob=/models/noob-v.safetensors#prediction=v#ztsnr#vae=/models/better.safetensors
    """
)
@click.argument("model", metavar="NAME=SOURCE")
@click.option("--replace", is_flag=True, help="Put it in the place of another model of that name.")
@click.option("--again", is_flag=True, help="Send all of it again, which mends what is damaged in the bucket.")
@json_option
def add(model: str, replace: bool, again: bool, as_json: bool) -> None:
    """Keep a model in the farm, for every worker that is started without --model.

    SOURCE is a folder in diffusers' layout or a .safetensors checkpoint on this machine, with what is to be otherwise
    than it says: #vae=FILE, #prediction=v or #prediction=epsilon, #ztsnr; of a checkpoint #config=FOLDER. What is in
    its files is sent to the bucket once: the same again sends nothing, models may share files, and after Ctrl-C the
    same command goes on. With --json: {name, kind, size, source, options, added, sent, files}; `sent` is in bytes.
    """
    from farm.bucket.models import KINDS
    from farm.client import FarmClient
    from farm.client import models as keeping

    name, source = name_and_source(model, "NAME=SOURCE", example="mine=/models/mine.safetensors")
    with FarmClient.connect() as farm:
        farm.check_bucket()
        with progress_bar() as progress:
            added = keeping.add(
                farm.ledger, farm.storage, name, source, replace=replace, again=again, progress=progress
            )
    kept = added.model
    if as_json:
        return print_json({**_facts(kept), "sent": added.sent, "files": _files(kept)})
    say(f"{name}: {KINDS[kept.kind]}, {size(kept.size)}, {what_was_sent(added.sent)}")


@models.command(
    epilog="""\b
    Examples:
      farm models show mine
      farm models show mine --json | jq .files
    """
)
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a model that the farm keeps: where it is from, its files, who serves it.

    With --json: as 'farm models --json' says of it, and files: {name: {sha256, size}}.
    """
    from farm.bucket.models import KINDS, read_model
    from farm.cli.view.columns import Columns
    from farm.client import FarmClient

    with FarmClient.connect() as farm:
        farm.check_bucket(only_to_read=True)
        kept = read_model(farm.storage, name)
        service = next((one for one in farm.models() if one.name == name), None)
    told = _told(name, service, kept)
    if as_json:
        return print_json({**told, "files": _files(kept)})
    say(f"{name}: {KINDS[kept.kind]}, {size(kept.size)}, from {kept.source}, added {kept.added:%Y-%m-%d %H:%M} UTC")
    if kept.options:
        say(f"otherwise than its files say: {', '.join(_otherwise(kept))}")
    say(f"served by {', '.join(told['workers']) or 'nobody'}; in memory of {', '.join(told['warm']) or 'nobody'}")
    for why in _refusals(told):
        say(why)
    say(f"jobs waiting: {told['waiting']:,}")
    rows = Columns("file", "size", "sha256", right=("size",), dropped=("sha256",))
    for file, stored in sorted(kept.files.items()):
        rows.add(file, size(stored.size), stored.sha256)
    console().print(rows)


@models.command(
    epilog="""\b
    Examples:
      farm models remove mine
      farm models remove mine --force
    """
)
@click.argument("name")
@click.option("--force", is_flag=True, help="Even while jobs wait for it; they go on waiting.")
@json_option
def remove(name: str, force: bool, as_json: bool) -> None:
    """Keep a model no longer: what no other model has of it is deleted from the bucket.

    Jobs that are being rendered with it are finished. With --json: {name, freed}, in bytes.
    """
    from farm.client import FarmClient
    from farm.client import models as keeping

    with FarmClient.connect() as farm:
        farm.check_bucket()
        removed = keeping.remove(farm.ledger, farm.storage, name, force=force)
    if as_json:
        return print_json({"name": removed.name, "freed": removed.freed})
    say(f"{name} is removed; {size(removed.freed)} were deleted")


def _told(name: str, service: ModelService | None, kept: StoredModel | None) -> dict[str, Any]:
    facts = _facts(kept) if kept else dict.fromkeys(("kind", "size", "source", "options", "added"))
    return {
        "name": name,
        "workers": service.workers if service else (),
        "warm": service.warm if service else (),
        "refused": service.refused if service else {},
        "waiting": service.waiting if service else 0,
        **{key: value for key, value in facts.items() if key != "name"},
    }


def _refusals(told: Mapping[str, Any]) -> Iterator[str]:
    """Why workers that were to serve a model do not."""
    return (f"{worker} does not serve it: {reason}" for worker, reason in sorted(told["refused"].items()))


def _facts(kept: StoredModel) -> dict[str, Any]:
    return {
        "name": kept.name,
        "kind": kept.kind,
        "size": kept.size,
        "source": kept.source,
        "options": kept.options,
        "added": kept.added.isoformat(),
    }


def _otherwise(kept: StoredModel) -> Iterator[str]:
    """What the options of its source say."""
    if (vae := kept.options.get("vae")) is not None:
        yield f"its autoencoder is that of {vae}"
    if (said := kept.options.get("prediction")) is not None:
        yield f"it predicts {said}"
    if "ztsnr" in kept.options:
        yield "its signal-to-noise ratio begins at zero"


def _files(kept: StoredModel) -> dict[str, Any]:
    return {name: file.model_dump() for name, file in sorted(kept.files.items())}


def _table(known: Sequence[Mapping[str, Any]]) -> Columns:
    from rich.text import Text

    from farm.bucket.models import KINDS
    from farm.cli.view.columns import Columns

    rows = Columns(
        *("model", "kind", "size", "waiting", "in memory of", "served by"),
        right=("size", "waiting"),
        elastic="served by",
        wrapped=True,
        dropped=("kind", "size", "in memory of"),
    )
    for model in known:
        rows.add(
            model["name"],
            KINDS.get(model["kind"], "–"),
            "–" if model["size"] is None else size(model["size"]),
            f"{model['waiting']:,}",
            ", ".join(model["warm"]) or "–",
            ", ".join(model["workers"]) or Text("none", style="yellow"),
        )
    return rows

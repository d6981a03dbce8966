"""`farm workers` and `losses`: what the farm has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from farm.cli.view.output import age, console, json_option, note, print_json
from farm.errors import LedgerUnavailable, NotConfigured
from farm.jobs.losses import BUILTIN, LossDeclaration
from farm.words import one_line

if TYPE_CHECKING:
    from rich.text import Text

    from farm.cli.view.columns import Columns
    from farm.jobs.status import WorkerInfo

_WORKER_STYLES = {"starting": "dim", "ready": "green", "draining": "yellow"}


@click.command(
    epilog="""\b
    Examples:
      farm workers
      farm workers --json | jq '.[].device'
    """
)
@json_option
def workers(as_json: bool) -> None:
    """List the live workers.

    With --json: a list of {id, host, pid, device, state, models, warm, loading, slots, jobs, refused, paused, losses,
    embeddings, limits, version, started, done, images_per_minute}; `warm` are the models in memory, `refused` says why
    models are not served, `paused` is null, or why the worker takes no jobs now, and `limits` has side, steps and
    seconds, null where it has none of its own.
    """
    from farm.client import FarmClient

    with FarmClient.connect() as farm:
        live = farm.workers()
    if as_json:
        return print_json([worker.model_dump(mode="json") for worker in live])
    if not live:
        return note("no live workers; start one with 'farm worker'")
    console().print(_table_of_workers(live))
    if any(worker.warm for worker in live):
        note("* in memory")
    for worker in live:
        if worker.loading:
            note(f"{worker.id} is loading {worker.loading}")
        if worker.paused and worker.state == "ready":
            note(f"{worker.id} takes no jobs: {worker.paused}")
        if limits := str(worker.limits):
            note(f"{worker.id} does at most {limits}")
        for model, reason in worker.refused.items():
            note(f"{worker.id} does not serve {model}: {reason}")


def _table_of_workers(live: Sequence[WorkerInfo]) -> Columns:
    from farm.cli.view.columns import Columns

    rows = Columns(
        *("worker", "state", "device", "jobs", "done", "img/min", "up", "models"),
        right=("jobs", "done", "img/min", "up"),
        elastic="models",
        wrapped=True,
        dropped=("up", "img/min", "done", "device", "models", "jobs"),
    )
    for worker in live:
        rows.add(
            worker.id,
            _state(worker),
            worker.device,
            f"{worker.jobs}/{worker.slots}",
            f"{worker.done:,}",
            "–" if worker.images_per_minute is None else f"{worker.images_per_minute:.1f}",
            age(worker.started),
            ", ".join(f"{name}*" if name in worker.warm else name for name in worker.models),
        )
    return rows


def _state(worker: WorkerInfo) -> Text:
    from rich.text import Text

    if worker.paused and worker.state == "ready":
        return Text("paused", style="yellow")
    return Text(worker.state, style=_WORKER_STYLES[worker.state])


@click.command(
    epilog="""\b
    Examples:
      farm losses
      farm submit guided "a puppy" --loss color:red=0.1,blue=0.9,scale=100,every=2
    """
)
@json_option
def losses(as_json: bool) -> None:
    """List the losses that can guide a picture, with their arguments.

    The built-in ones, and those that live workers add. With --json: a list of {name, help, arguments: [{name, default,
    minimum, maximum, help}], default_scale}.
    """
    known = known_losses()
    if as_json:
        return print_json([asdict(loss) for loss in known])
    console().print(_table_of_losses(known))


def known_losses() -> Sequence[LossDeclaration]:
    """Those of the farm; the built-in ones where there is no farm, or none that answers."""
    from farm.client import FarmClient

    try:
        with FarmClient.connect() as farm:
            return farm.losses()
    except NotConfigured:
        return BUILTIN
    except LedgerUnavailable as error:
        note(f"farm: {error.message}; these are the built-in losses")
        return BUILTIN


def _table_of_losses(known: Sequence[LossDeclaration]) -> Columns:
    from rich.text import Text

    from farm.cli.view.columns import Columns

    rows = Columns(
        *("loss", "argument", "default", "range", "scale", "meaning"),
        right=("default", "scale"),
        elastic="meaning",
        wrapped=True,
        dropped=("range", "scale", "meaning"),
    )
    for loss in known:
        rows.add(Text(loss.name, style="bold"), "", "", "", f"{loss.default_scale:g}", loss.help)
        for argument in loss.arguments:
            limits = f"{argument.minimum:g} to {argument.maximum:g}"
            meaning = Text(one_line(argument.help), style="dim")
            rows.add("", argument.name, f"{argument.default:g}", limits, "", meaning)
    return rows

"""`farm workers`: who renders, and telling some to take no more jobs or to go on."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from farm.cli.view.output import age, console, json_option, note, plural, print_json, say, size

if TYPE_CHECKING:
    from rich.text import Text

    from farm.cli.view.columns import Columns
    from farm.client import FarmClient
    from farm.jobs.status import MemoryUse, WorkerInfo
    from farm.ledger.records import Drained

_STYLES = {"starting": "dim", "ready": "green", "draining": "yellow", "drained": "yellow", "paused": "yellow"}
_LOOK_SECONDS = 0.5
_HEARD_SECONDS = 3
"""Workers hear of what they are told within a second, unless they hang."""


@click.group(
    invoke_without_command=True,
    epilog="""\b
    Examples:
      farm workers
      farm workers --json | jq '.[].device'
    """,
)
@json_option
@click.pass_context
def workers(context: click.Context, as_json: bool) -> None:
    """List the live workers.

    With --json: a list of {id, host, pid, device, state, models, warm, loading, slots, jobs, refused, paused, losses,
    embeddings, limits, version, started, done, images_per_minute, drained, rows, max_rows, device_memory, host_memory};
    `warm` are the models in memory, `refused` says why models are not served, `paused` is null, or why the worker takes
    no jobs now, `limits` has side, steps and seconds, null where it has none of its own, and `drained` is true while an
    operator lets it take no jobs. `rows` are those of the engine's last step. Memory is {total, used, own} in bytes:
    what there is, what anybody has of it, and what the worker has; that of the device is null on a CPU.
    """
    if context.invoked_subcommand is not None:
        return
    from farm.client import FarmClient

    with FarmClient.connect() as farm:
        live = farm.workers()
        drained = [] if as_json else farm.ledger.drained()
    if as_json:
        return print_json([worker.model_dump(mode="json") for worker in live])
    if live:
        console().print(_table(live))
        _tell_more(live)
    else:
        note("no live workers; start one with 'farm worker'")
    _tell_of_the_absent(drained, live)


@workers.command(
    epilog="""\b
    Examples:
      farm workers drain gpu-7-0
      farm workers drain gpu-7-0 --hand-back
      farm workers drain gpu-7-0 gpu-7-1 --wait && ssh gpu-7 sudo systemctl restart farm-worker
    """
)
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--hand-back", is_flag=True, help="What they have goes back to the queue, from the step it has reached.")
@click.option("--wait", is_flag=True, help="Until they have no job.")
@json_option
def drain(names: tuple[str, ...], hand_back: bool, wait: bool, as_json: bool) -> None:
    """Let workers take no more jobs; what they have they finish.

    NAME is a worker's id, or the id without its end, a hyphen and four characters: what its process is called however
    often it is started anew, for that is what is drained until 'farm workers resume'. With --json: {names, workers};
    the latter are the ids of those that live and hear it.
    """
    from farm.client import FarmClient

    with FarmClient.connect() as farm:
        told = farm.drain(names, hand_back=hand_back)
        if not as_json:
            _tell_drained(_once_heard(farm, told.workers), hand_back=hand_back)
        if wait:
            try:
                _until_idle(farm, told.workers)
            except KeyboardInterrupt:
                note(f"they stay drained until 'farm workers resume {' '.join(told.names)}'")
                raise
    if as_json:
        print_json(asdict(told))
    elif wait:
        say(f"{', '.join(told.workers)}: no job is left")


@workers.command(
    epilog="""\b
    Examples:
      farm workers resume gpu-7-0
    """
)
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@json_option
def resume(names: tuple[str, ...], as_json: bool) -> None:
    """Let workers that were drained take jobs again.

    With --json: {names, workers}; the latter are the ids of those that live and hear it.
    """
    from farm.client import FarmClient

    with FarmClient.connect() as farm:
        told = farm.resume(names)
        live = farm.workers()
    if as_json:
        return print_json(asdict(told))
    for worker in told.workers:
        say(f"{worker} takes jobs")
    for name in sorted(set(told.names) - {worker.name for worker in live}):
        say(f"{name} takes jobs once it is started; no worker of that name lives now")


def _once_heard(farm: FarmClient, workers: Collection[str]) -> Sequence[WorkerInfo]:
    """What these workers say of themselves once they have heard that they are drained: before, it may be old."""
    deadline = time.monotonic() + _HEARD_SECONDS
    while True:
        said = [worker for worker in farm.workers() if worker.id in workers]
        if all(worker.drained for worker in said) or time.monotonic() > deadline:
            return said
        time.sleep(_LOOK_SECONDS / 5)


def _tell_drained(told: Sequence[WorkerInfo], *, hand_back: bool) -> None:
    for worker in told:
        rest = f", and {'hands back' if hand_back else 'finishes'} {plural(worker.jobs, 'job')}" if worker.jobs else ""
        unheard = "" if worker.drained else " once it hears of it: it has not answered yet"
        say(f"{worker.id} takes no more jobs{unheard or rest}")


def _until_idle(farm: FarmClient, workers: Collection[str]) -> None:
    """Wait until these workers, as far as they live, have heard that they are drained and have no job."""
    while any(one.jobs or not one.drained for one in farm.workers() if one.id in workers):
        time.sleep(_LOOK_SECONDS)


def _table(live: Sequence[WorkerInfo]) -> Columns:
    from farm.cli.view.columns import Columns

    rows = Columns(
        *("worker", "state", "device", "jobs", "rows", "memory", "done", "img/min", "up", "models"),
        right=("jobs", "rows", "memory", "done", "img/min", "up"),
        elastic="models",
        wrapped=True,
        dropped=("up", "img/min", "done", "rows", "memory", "device", "models", "jobs"),
    )
    for worker in live:
        rows.add(
            worker.id,
            _condition(worker),
            worker.device,
            f"{worker.jobs}/{worker.slots}",
            "–" if worker.rows is None or worker.max_rows is None else f"{worker.rows}/{worker.max_rows}",
            _memory(worker.device_memory or worker.host_memory),
            f"{worker.done:,}",
            "–" if worker.images_per_minute is None else f"{worker.images_per_minute:.1f}",
            age(worker.started),
            ", ".join(f"{name}*" if name in worker.warm else name for name in worker.models),
        )
    return rows


def _condition(worker: WorkerInfo) -> Text:
    from rich.text import Text

    return Text(worker.condition, style=_STYLES[worker.condition])


def _memory(memory: MemoryUse | None) -> str:
    """What the worker itself has of it, of how much there is."""
    return "–" if memory is None or memory.own is None else f"{size(memory.own)} of {size(memory.total)}"


def _tell_more(live: Sequence[WorkerInfo]) -> None:
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


def _tell_of_the_absent(drained: Sequence[Drained], live: Sequence[WorkerInfo]) -> None:
    """Who was drained and does not live now would take no jobs when it is started, and nobody would know why."""
    names = {worker.name for worker in live}
    for one in drained:
        if one.name not in names:
            note(f"{one.name} does not live, and is drained: 'farm workers resume {one.name}'")

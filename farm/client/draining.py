"""Draining workers: those that operators name take no more jobs, until they are told to go on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from farm import keys
from farm.alike import did_you_mean
from farm.errors import WorkerNotFound
from farm.jobs.status import WorkerInfo
from farm.ledger.ledger import Ledger


@dataclass(frozen=True)
class Told:
    """Whom an operator has told something: workers by name, and the ids of those that live and hear it."""

    names: tuple[str, ...]
    workers: tuple[str, ...]


def drain(ledger: Ledger, workers: Iterable[str], *, hand_back: bool = False) -> Told:
    """Let workers, by id or name, take no more jobs. What they have they finish, or `hand_back` at the next step.

    It is said of all that have a name, and of what is started in their place, until they are told to go on.
    Raises `WorkerNotFound`, and then nobody is told anything; `LedgerUnavailable`.
    """
    told = _meant(list(workers), ledger.workers())
    ledger.drain(told.names, "hand-back" if hand_back else "finish")
    return told


def resume(ledger: Ledger, workers: Iterable[str]) -> Told:
    """Let workers, by id or name, take jobs again; also by the names of such as were drained and do not live.

    Raises `WorkerNotFound`, and then nobody is told anything; `LedgerUnavailable`.
    """
    told = _meant(list(workers), ledger.workers(), [drained.name for drained in ledger.drained()])
    ledger.resume(told.names)
    return told


def _meant(named: Sequence[str], live: Sequence[WorkerInfo], drained: Collection[str] = ()) -> Told:
    known = {worker.name for worker in live}.union(drained)
    names = [_name(one, live, known) for one in named]
    return Told(tuple(dict.fromkeys(names)), tuple(worker.id for worker in live if worker.name in names))


def _name(one: str, live: Sequence[WorkerInfo], known: Collection[str]) -> str:
    """What a worker is called that is named by its name or its id."""
    for worker in live:
        if worker.id == one:
            return worker.name
    if one in known:
        return one
    name = keys.worker_name(one)
    hint = f"there is another process of that name: name it '{name}'" if name in known else None
    hint = hint or did_you_mean([one], known, "'farm workers' lists them")
    raise WorkerNotFound(f"no live worker is called {one!r:.120}", hint=hint)

"""Which models the farm serves, by whom, and how much waits for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from farm.ledger.ledger import Ledger


@dataclass(frozen=True)
class ModelService:
    """A model, the live workers that serve it, how many jobs wait for it, the workers that have it in memory, and why
    others, that were to serve it, do not."""

    name: str
    workers: tuple[str, ...]
    waiting: int
    warm: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def services(ledger: Ledger) -> Sequence[ModelService]:
    """Every model that a live worker serves or was to serve, or that a job waits for. Raises `LedgerUnavailable`."""
    workers = ledger.workers()
    names = sorted({name for worker in workers for name in (*worker.models, *worker.refused)} | set(ledger.models()))
    every = [
        ModelService(
            name,
            workers=tuple(w.id for w in workers if name in w.models),
            warm=tuple(w.id for w in workers if name in w.warm),
            waiting=ledger.waiting(name),
            refused={w.id: w.refused[name] for w in workers if name in w.refused},
        )
        for name in names
    ]
    return [service for service in every if service.workers or service.waiting or service.refused]

"""Redis commands a job and a step, counted by Redis itself, on an almost empty ledger and on a full one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farm.jobs.status import Waiting
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim
from farm.queue import Queue
from tests.benchmarks.client_side import fill
from tests.benchmarks.farms import LocalFarm

_JOBS, _REPORTS = 50, 20
_WORKER = "bench"


def counted(farm: LocalFarm, *, full: int) -> dict[str, Any]:
    """Requests, inner commands and microseconds for each part of a job's life, by how much the ledger holds."""
    ledger, queue = Ledger(farm.where), Queue(farm.where)
    try:
        return {
            str(held): _lifecycle(ledger, queue)
            for held in (0, full)
            if held == 0 or fill(ledger, held - sum(ledger.counts().values()))
        }
    finally:
        queue.close()
        ledger.close()


def _lifecycle(ledger: Ledger, queue: Queue) -> dict[str, dict[str, float]]:
    jobs: list[str] = []
    claims: list[Claim] = []

    def publish() -> None:
        queue.publish(Waiting(job, "emoji", 5) for job in jobs)

    def claim() -> None:
        claims.extend(claim for job in jobs if (claim := ledger.claim(job, _WORKER)))

    def report() -> None:
        for step in range(1, _REPORTS + 1):
            ledger.renew(_WORKER, [(claim.job, claim.attempt, step) for claim in claims])

    def finish() -> None:
        for one in claims:
            ledger.finish(one, _WORKER, "done", {"result": "x"})

    publish_first = _count(ledger, lambda: jobs.extend(fill(ledger, _JOBS)))
    parts = {"create": publish_first, "publish": _count(ledger, publish), "claim": _count(ledger, claim)}
    reports = _count(ledger, report)
    parts["finish"] = _count(ledger, finish)
    found = {name: {what: number / _JOBS for what, number in counts.items()} for name, counts in parts.items()}
    found["report of a step"] = {what: number / _JOBS / _REPORTS for what, number in reports.items()}
    found["in all, but for reports"] = {
        what: sum(part[what] for name, part in found.items() if name in parts)
        for what in ("requests", "commands", "us")
    }
    return found


def _count(ledger: Ledger, action: Callable[[], object]) -> dict[str, float]:
    """What Redis did during `action`: requests by clients, commands (those inside of scripts too), and microseconds."""
    before = _statistics(ledger)
    action()
    after = _statistics(ledger)
    calls, us = (
        {name: after[name][what] - before.get(name, {}).get(what, 0) for name in after} for what in ("calls", "usec")
    )
    scripts = {name: number for name, number in calls.items() if name in ("cmdstat_evalsha", "cmdstat_eval")}
    outside = calls.get("cmdstat_lpush", 0) + sum(scripts.values())
    script_us = sum(us[name] for name in scripts) + us.get("cmdstat_lpush", 0)
    counted = {name: number for name, number in calls.items() if name not in ("cmdstat_info", *scripts)}
    return {"requests": outside, "commands": sum(counted.values()), "us": script_us}


def _statistics(ledger: Ledger) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = ledger.redis.info("commandstats")
    return found

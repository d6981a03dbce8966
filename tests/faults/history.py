"""What happened to every job, read from the ledger's events as they come: the events are bounded, this is not."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass

from redis import RedisError

from farm.ledger.connection import PREFIX
from farm.ledger.ledger import Ledger
from farm.settings import Settings
from tests.waiting import eventually


@dataclass(frozen=True)
class Happening:
    """One event, at a time in seconds by Redis' clock. `worker` and `attempt` are a claim's; `why` a requeue's."""

    at: float
    job: str
    state: str
    worker: str | None = None
    attempt: int | None = None
    why: str | None = None
    step: int | None = None

    @property
    def is_claim(self) -> bool:
        return self.worker is not None


class History:
    """Follows the events of one farm, through every outage, until closed."""

    def __init__(self, where: Settings) -> None:
        self._ledger = Ledger(where)
        self._cursor = "0-0"
        self._lock = threading.Lock()
        self._by_job: dict[str, list[Happening]] = defaultdict(list)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="history", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._ledger.close()

    def of(self, job: str) -> list[Happening]:
        """What happened to a job so far, in order."""
        with self._lock:
            return list(self._by_job.get(job, ()))

    def claims(self, job: str) -> list[Happening]:
        return [happening for happening in self.of(job) if happening.is_claim]

    def holder(self, job: str) -> str | None:
        """The worker that claimed the job last."""
        claims = self.claims(job)
        return claims[-1].worker if claims else None

    def catch_up(self) -> None:
        """Wait until everything that has happened by now is known."""
        last = self._ledger.now()
        eventually(lambda: _order(self._cursor) >= _order(last), "all events are read")

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._ledger.redis.xread({f"{PREFIX}:events": self._cursor}, count=5_000, block=200)
            except RedisError:
                self._stop.wait(0.1)
                continue
            for _, entries in answer or ():
                with self._lock:
                    for identifier, fields in entries:
                        self._note(identifier, fields)
                self._cursor = entries[-1][0]

    def _note(self, identifier: str, fields: dict[str, str]) -> None:
        self._by_job[fields["job"]].append(
            Happening(
                at=_order(identifier)[0] / 1000,
                job=fields["job"],
                state=fields["state"],
                worker=fields.get("worker"),
                attempt=int(fields["attempt"]) if "attempt" in fields else None,
                why=fields.get("why"),
                step=int(fields["step"]) if "step" in fields else None,
            )
        )


def _order(identifier: str) -> tuple[int, int]:
    """Milliseconds, and a number within the millisecond."""
    milliseconds, _, number = identifier.partition("-")
    return int(milliseconds), int(number)

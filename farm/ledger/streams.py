"""What happens to jobs, and what people tell workers, in the order in which it did."""

from __future__ import annotations

from typing import Any

from farm.ledger.connection import milliseconds
from farm.ledger.records import Event, Orders, read_cancellation, read_event
from farm.ledger.turns import Turns


class Streams(Turns):
    """What a ledger tells as it happens."""

    def now(self) -> str:
        """A cursor from which `events` tells what happens next."""
        with self._talking():
            last = self.redis.xrevrange(self._key("events"), count=1)
        return last[0][0] if last else "0-0"

    def events(self, cursor: str, *, wait: float = 1.0) -> list[Event]:
        """What happened after `cursor`, waiting up to `wait` seconds for something to happen."""
        return [read_event(*entry) for entry in self._read_stream("events", cursor, wait)]

    def changed_since(self, cursor: str) -> list[str] | None:
        """The jobs to which something happened after `cursor`; None if that is not known (any more).

        `cursor` is one that an event had: `<milliseconds>-<number>`.
        """
        stream = self._key("events")
        with self._talking():
            first, last = self.redis.xread({stream: "0-0"}, count=1), self.redis.xrevrange(stream, count=1)
        if not first or not last or not moment(first[0][1][0][0]) <= moment(cursor) <= moment(last[0][0]):
            return None
        jobs: dict[str, None] = {}
        while entries := self._read_stream("events", cursor, 0.001):
            jobs |= {read_event(*entry).job: None for entry in entries}
            cursor = entries[-1][0]
        return [job for job in jobs if job]

    def orders(self, cursor: str, *, wait: float) -> Orders:
        """What people have told workers after `cursor`, waiting up to `wait` seconds."""
        entries = self._read_stream("control", cursor, wait)
        cancelled = frozenset(attempt for _, fields in entries if (attempt := read_cancellation(fields)))
        told = frozenset(fields["worker"] for _, fields in entries if "worker" in fields)
        return Orders(entries[-1][0] if entries else cursor, cancelled, told)

    def control_cursor(self) -> str:
        """A cursor from which `orders` tells what is told next."""
        with self._talking():
            last = self.redis.xrevrange(self._key("control"), count=1)
        return last[0][0] if last else "0-0"

    def _read_stream(self, name: str, cursor: str, wait: float) -> list[tuple[str, dict[str, str]]]:
        with self._talking():
            answer: Any = self.redis.xread({self._key(name): cursor}, count=2_000, block=max(1, milliseconds(wait)))
        return [entry for _, entries in answer or () for entry in entries]


def moment(cursor: str) -> tuple[int, int]:
    milliseconds, _, number = cursor.partition("-")
    return int(milliseconds), int(number)

"""Which jobs are queued for each model, and in which order they will be taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from farm.jobs.status import JobStatus
from farm.ledger.connection import Connection

_LESS_URGENT = 10**14
"""Where the turns of priority 8 begin: see `wait` in `lua/1_records.lua`."""
_MOST_OF_A_TURN = 2_000


class Turns(Connection):
    """What a ledger tells of the jobs that wait."""

    def models(self) -> list[str]:
        """Every model that jobs were queued for."""
        with self._talking():
            return sorted(self.redis.smembers(self._key("models")))

    def waiting(self, model: str) -> int:
        """How many jobs of a model are queued."""
        with self._talking():
            return int(self.redis.zcard(self._key("waiting", model)))

    def urgent(self, models: Iterable[str], *, limit: int = 10) -> list[str]:
        """Queued jobs of the highest priority, by model and in the order of their turns, at most `limit` of each."""
        with self._talking():
            pipeline = self.redis.pipeline(transaction=False)
            for model in models:
                pipeline.zrangebyscore(self._key("turn", model), "-inf", f"({_LESS_URGENT}", start=0, num=limit)
            return [job for found in pipeline.execute() for job in found]

    def places(self, jobs: Sequence[JobStatus]) -> dict[str, int]:
        """How many queued jobs of its model go before each of these, which are queued.

        Of thousands that were submitted at the same moment, those beyond the first ones are told the least it can be.
        """
        turns: dict[tuple[str, int], list[str]] = {}
        for job in jobs:
            moment = round(1000 * job.submitted.timestamp())
            turns.setdefault((job.model, _LESS_URGENT * (9 - job.priority) + moment), []).append(job.id)
        with self._talking():
            pipeline = self.redis.pipeline(transaction=False)
            for model, turn in turns:
                pipeline.zcount(self._key("turn", model), "-inf", f"({turn}")
            before = pipeline.execute()
            for (model, _), number in zip(turns, before, strict=True):
                pipeline.zrange(self._key("turn", model), number, number + _MOST_OF_A_TURN - 1)
            found = pipeline.execute()
        places: dict[str, int] = {}
        for names, number, of_turn in zip(turns.values(), before, found, strict=True):
            order = {name: number + index for index, name in enumerate(of_turn)}
            places |= {name: order.get(name, number + len(of_turn)) for name in names}
        return places

    def waiting_for(self, models: Sequence[str]) -> dict[str, int]:
        """How many jobs are queued for each of the models."""
        with self._talking():
            pipeline = self.redis.pipeline(transaction=False)
            for model in models:
                pipeline.zcard(self._key("waiting", model))
            return dict(zip(models, pipeline.execute(), strict=True))

"""What goes on for each caller: how far their requests are, and what they have chosen.

A1111 knows one person and one picture at a time. Here both are each caller's own: nobody interrupts another, sees
another's progress or changes another's model. It is kept by this process alone, and ends with it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from farm.jobs.status import JobStatus
from farm.web.a1111.options import Options
from farm.web.hub import Follower

_MOST_CALLERS = 1_000


@dataclass(eq=False)
class Task:
    """A request that is being rendered. Times in seconds."""

    name: str
    began: float = field(default_factory=time.monotonic)
    stamp: str = field(default_factory=lambda: datetime.now().strftime("%Y%m%d%H%M%S"))
    jobs: Sequence[str] = ()
    interrupted: bool = False
    skipped: bool = False
    follower: Follower | None = None

    def follow(self, follower: Follower) -> None:
        self.follower = follower

    @property
    def statuses(self) -> list[JobStatus | None]:
        """What is known of its jobs, in their order."""
        latest = (self.follower.latest if self.follower else None) or {}
        return [latest.get(job) for job in self.jobs]

    @property
    def going_on(self) -> list[str]:
        """Its jobs that are not over, in their order."""
        return [job for job, status in zip(self.jobs, self.statuses, strict=True) if not (status and status.is_over)]


class Tasks:
    """What goes on, and what was chosen, by callers' names."""

    def __init__(self) -> None:
        self._going_on: dict[str, list[Task]] = {}
        self._options: OrderedDict[str, Options] = OrderedDict()

    @contextmanager
    def begun(self, caller: str, name: str) -> Iterator[Task]:
        """A task of a caller's, for as long as it lasts."""
        task = Task(name)
        self._going_on.setdefault(caller, []).append(task)
        try:
            yield task
        finally:
            self._going_on[caller].remove(task)
            if not self._going_on[caller]:
                del self._going_on[caller]

    def of(self, caller: str) -> Sequence[Task]:
        """What goes on for a caller, the oldest first."""
        return list(self._going_on.get(caller, ()))

    def options(self, caller: str) -> Options:
        """What a caller has chosen."""
        return self._options.get(caller, Options())

    def choose(self, caller: str, change: Callable[[Options], Options]) -> None:
        """Change what a caller has chosen. Of too many callers, those who have chosen longest ago lose it."""
        self._options[caller] = change(self.options(caller))
        self._options.move_to_end(caller)
        while len(self._options) > _MOST_CALLERS:
            self._options.popitem(last=False)


async def tasks_of(request: Request) -> Tasks:
    """The tasks of the site that a request came to."""
    tasks: Tasks = request.app.state.a1111
    return tasks


InTasks = Annotated[Tasks, Depends(tasks_of)]

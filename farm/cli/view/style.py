"""The colours of the states, wherever jobs are shown."""

from __future__ import annotations

from farm.jobs.status import State

STYLES: dict[State, str] = {
    "queued": "dim",
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "cancelled": "yellow",
}

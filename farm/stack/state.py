"""What a running farm says of itself in `farm.json`: `farm.settings.load_local` reads the addresses in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from farm.settings import Settings
from farm.stack.layout import Layout, write_json


@dataclass(frozen=True)
class ChildStatus:
    """One supervised process. Without a `pid` it waits for its next start, or was `given_up`.

    `log_began` is the size that its log had when this farm first started it.
    """

    name: str
    pid: int | None
    restarts: int
    last_exit: int | None
    given_up: bool
    log: Path
    log_began: int

    @property
    def runs(self) -> bool:
        return self.pid is not None


@dataclass(frozen=True)
class FarmStatus:
    """A running farm: its supervisor's process id, when it was ready, how many workers were asked for."""

    pid: int
    started: datetime
    workers: int
    models: tuple[str, ...]
    children: tuple[ChildStatus, ...]


def write(layout: Layout, settings: Settings, status: FarmStatus) -> None:
    """Replace `farm.json` in one step, readable by its owner only."""
    write_json(
        layout.state,
        {
            "redis_url": settings.redis_url,
            "s3_bucket": settings.s3_bucket,
            "s3_endpoint": settings.s3_endpoint,
            "s3_access_key": settings.s3_access_key,
            "s3_secret_key": settings.s3_secret_key,
            "pid": status.pid,
            "started": status.started.isoformat(),
            "workers": status.workers,
            "models": status.models,
            "children": [asdict(child) | {"log": str(child.log)} for child in status.children],
        },
    )


def read(layout: Layout) -> FarmStatus | None:
    """What `farm.json` says, or None without one. Says nothing about whether that farm still lives."""
    try:
        state: dict[str, Any] = json.loads(layout.state.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return FarmStatus(
        pid=state["pid"],
        started=datetime.fromisoformat(state["started"]),
        workers=state["workers"],
        models=tuple(state["models"]),
        children=tuple(ChildStatus(**{**child, "log": Path(child["log"])}) for child in state["children"]),
    )

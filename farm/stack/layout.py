"""Where things lie in the farm's home.

farm.json          addresses and credentials of the running farm; there while it runs
farm.lock          held by the running supervisor, with its process id inside
credentials.json   generated once, kept across restarts
redis/  s3/        the servers' configuration and data
web.json           the address of its site, with a code that lets one browser in; there while that runs
web.port           the port that the site had last
logs/              one file per process
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm import settings
from farm.errors import HomeRefused
from farm.host import homes
from farm.host.private import write_private


@dataclass(frozen=True)
class Layout:
    """The paths of one farm's home."""

    home: Path

    @property
    def state(self) -> Path:
        return settings.state_file(self.home)

    @property
    def lock(self) -> Path:
        return settings.lock_file(self.home)

    @property
    def credentials(self) -> Path:
        return self.home / "credentials.json"

    @property
    def door(self) -> Path:
        return self.home / "web.json"

    @property
    def redis(self) -> Path:
        return self.home / "redis"

    @property
    def s3(self) -> Path:
        return self.home / "s3"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def create(self) -> None:
        """Make the folders, open to their owner only. Raises `HomeRefused` where that cannot be done, or nothing can be
        written there."""
        homes.prepare(self.home)
        for folder in (self.redis, self.s3, self.logs):
            try:
                homes.make(folder)
            except OSError as error:
                raise HomeRefused(
                    f"{folder} cannot be made: {error.strerror}", hint="set FARM_HOME to a folder that you can write to"
                ) from error
        homes.check_writable(self.home)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_private`, as JSON."""
    write_private(path, json.dumps(content, indent=2) + "\n")

"""The models that other programs are told of, and choose from by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from farm.client.planning import default_model
from farm.web.parts import Parts

_OF_A_FILE = re.compile(r"(\.safetensors|\.ckpt)?(\s*\[[0-9a-f]{1,64}\])?$")


@dataclass(frozen=True)
class Served:
    """The models that live workers serve and, whether one does or not, the one for requests that name none."""

    names: tuple[str, ...]
    default: str

    def find(self, name: str) -> str | None:
        """The model that a name means, in whatever case, and written as a file too: `name.safetensors [1a2b3c]`."""
        plain = _OF_A_FILE.sub("", name.strip()).casefold()
        return next((known for known in self.names if known.casefold() == plain), None)


async def served(site: Parts) -> Served:
    """What the farm serves now. Raises `LedgerUnavailable`."""
    workers = await site.ledger(site.client.workers)
    default = default_model(workers)
    return Served(tuple(sorted({default, *(name for worker in workers for name in worker.models)})), default)

"""Why jobs wait in vain, for pages and APIs that tell it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping

from farm.client.waits import held_up
from farm.errors import FarmError
from farm.web.parts import AT_ONCE_SECONDS, Parts
from farm.web.problems import Refused


async def why_waiting(site: Parts, models: Collection[str]) -> Mapping[str, str]:
    """Why jobs of the models wait for longer than their turn, by model, as far as that is known at once: nobody who
    looks waits for it."""
    workers = await site.workers(within=AT_ONCE_SECONDS) if models else None
    if workers is None:
        return {}
    kept = await _kept(site)
    return held_up(models, workers, lambda: kept)


async def _kept(site: Parts) -> Collection[str]:
    """The names of the models that the farm keeps."""
    with contextlib.suppress(FarmError, Refused):
        return await site.kept_models(within=AT_ONCE_SECONDS) or ()
    return ()

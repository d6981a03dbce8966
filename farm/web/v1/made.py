"""What a job has made, wherever that is known: in the ledger, or if its record has lapsed, in the index of pictures."""

from __future__ import annotations

import contextlib

from farm.bucket.fetch import read_result
from farm.bucket.results import JobResult, ResultObject
from farm.errors import JobNotFound
from farm.web.index.entry import Entry
from farm.web.parts import Parts
from farm.web.problems import Refused


async def result_of(site: Parts, job: str) -> JobResult:
    """The result of a finished job. Raises what `FarmClient.result` does."""
    try:
        return await site.bucket(site.client.result, job)
    except JobNotFound:
        entry = await _entry(site, job)
        if entry is None:
            raise
        return await site.bucket(read_result, site.client.storage, entry.result)


async def picture_of(site: Parts, job: str) -> ResultObject:
    """The picture of a finished job; the index is asked first, for lists ask for many. Raises as `result_of` does."""
    entry = await _entry(site, job)
    return entry.picture if entry else (await result_of(site, job)).picture


async def _entry(site: Parts, job: str) -> Entry | None:
    if site.index is None:
        return None
    with contextlib.suppress(Refused):  # it is not there yet
        return await site.searches(site.index.entry, job)
    return None

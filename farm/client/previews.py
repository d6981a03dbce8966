"""Looking at jobs while they are rendered: workers keep previews up for as long as somebody looks.

Whoever looks says so in the ledger, again and again. The job's worker hears of it as it reports its steps, twice a
second at most, and then puts `jobs/<job>/preview.png` into the bucket. It is removed when the job is over.
"""

from __future__ import annotations

from collections.abc import Sequence

from farm import keys
from farm.bucket.preview import MAX_BYTES, Preview
from farm.bucket.storage import Storage
from farm.errors import ObjectDamaged, ObjectMissing, ObjectTooLarge
from farm.ledger.ledger import Ledger

SUBSCRIPTION_SECONDS = 15.0
"""For this long workers keep previews up after somebody looked."""


def subscribe(ledger: Ledger, storage: Storage, jobs: Sequence[str]) -> dict[str, Preview]:
    """The previews that there are of `jobs`; more come while one keeps asking, at least every `SUBSCRIPTION_SECONDS`.

    Raises `LedgerUnavailable`, `StorageError`.
    """
    running = ledger.subscribe_previews(jobs, seconds=SUBSCRIPTION_SECONDS)
    return {job: preview for job in running if (preview := _read(storage, job))}


def _read(storage: Storage, job: str) -> Preview | None:
    """A job's preview, or None if there is none, or something else in its place."""
    key = keys.preview(job)
    try:
        preview = Preview.from_png(storage.get(key, limit=MAX_BYTES), key=key)
    except (ObjectMissing, ObjectTooLarge, ObjectDamaged):
        return None
    return preview if preview.job == job else None

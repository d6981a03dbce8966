"""Forgetting what has been over for as long as `FARM_RETENTION` says: a chore of the reaper. Off by default."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

from farm import variables
from farm.bucket.storage import Storage
from farm.client import forget
from farm.ledger.ledger import Ledger

_log = logging.getLogger(__name__)

_PERIOD_SECONDS = 600.0


class Retention:
    """`FARM_RETENTION=30d` of workers; with `FARM_RETENTION_OBJECTS=yes` what the jobs made goes as well.

    Raises `InvalidInput` for what is no length of time, or neither yes nor no.
    """

    def __init__(self, ledger: Ledger, storage: Storage, environment: Mapping[str, str] = os.environ) -> None:
        self._seconds = variables.RETENTION.of(environment)
        self._objects = variables.RETENTION_OBJECTS.of(environment) or False
        self._ledger = ledger
        self._storage = storage
        self._next = float("-inf")

    def see_to_it(self) -> None:
        """Forget what is old, at most once in ten minutes. Raises `LedgerUnavailable`, `StorageError`."""
        if self._seconds is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PERIOD_SECONDS
        for jobs in forget.expire(self._ledger, self._storage, older_than=self._seconds, objects=self._objects):
            _log.info("forgot %d jobs that were over long ago", len(jobs))

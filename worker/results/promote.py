"""The job's own `result.json`: a copy of the winning attempt's, for those who know only the bucket.

It is written once the ledger has accepted the attempt, so one that lost its lease can never replace the winner's.
Should the worker die in between, another writes it.
"""

from __future__ import annotations

import logging

from farm import keys
from farm.bucket.fetch import read_result
from farm.bucket.results import JobResult
from farm.bucket.storage import Storage
from farm.errors import FarmError, StorageError
from farm.ledger.ledger import Ledger
from farm.ledger.timing import TIMING, Timing

_log = logging.getLogger(__name__)


class Promoter:
    """Nothing here raises but what cannot be foreseen: the ledger names the result as well."""

    def __init__(self, storage: Storage, ledger: Ledger, timing: Timing = TIMING) -> None:
        self._storage = storage
        self._ledger = ledger
        self._timing = timing

    def promote(self, result: JobResult) -> None:
        """Make an accepted attempt's result the job's."""
        self._write(result.job, result.to_json())

    def promote_missing(self) -> None:
        """Do it for jobs whose workers should have done it by now."""
        for job, sealed in self._ledger.unpromoted(older_than=self._timing.unpromoted).items():
            try:
                result = read_result(self._storage, sealed)
                if (result.job, sealed) != (job, keys.attempt_result(job, result.attempt)):
                    _log.warning("job %s has a result that is not its own: %s", job, sealed)
                    self._ledger.promoted(job)
                    continue
                self._write(job, result.to_json())
            except StorageError as error:
                _log.warning("the result of job %s cannot be copied: %s", job, error)

    def _write(self, job: str, data: bytes) -> None:
        try:
            self._storage.put(keys.result(job), data, "application/json")
            self._ledger.promoted(job)
        except FarmError as error:
            _log.warning("%s is not written yet: %s", keys.result(job), error)

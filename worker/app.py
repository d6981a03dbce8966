"""A worker process: puts the parts together, and runs them until it is asked to leave."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import closing
from functools import partial

from farm import settings
from farm.client import tie
from farm.errors import FarmError, InvalidInput, LedgerRefused, LedgerUnavailable
from worker import leaving
from worker.diffusion.determinism import choose_deterministic_kernels
from worker.host.crash_report import left_behind
from worker.host.disk import remove_left_behind
from worker.options import Options
from worker.parts import Parts

_log = logging.getLogger(__name__)


class Worker(Parts):
    """One process on one device."""

    def run(self) -> None:
        """Load the models, then work until SIGTERM or SIGINT. Raises `FarmError` if it cannot start."""
        if self._options.compile and not self._on_gpu:
            _log.warning("--compile is for GPUs: on a CPU forwards are recorded, which is as fast")
        if self._options.deterministic:
            choose_deterministic_kernels()
        remove_left_behind()
        self._report_earlier_crashes()
        with closing(self._crash_report):
            signal.signal(signal.SIGTERM, leaving.before_ready)
            self._take_the_bucket()
            self._gauge.start()
            self._keeper.start()
            try:
                self._supply.refresh()
                self._served.load()
                taken = self._supply.begin()
                self._engine.start()
                self._previews.start()
                self._logs.start()
                self._reaper.start()
                self._studies.start()
                self._consumer.run(taken, self._on_ready, is_leaving=self._leaving.is_set)
            finally:
                self._keeper.stop()
                self._gauge.stop()
        self._studies.stop()
        self._previews.stop()
        self._reaper.stop()
        self._engine.stop()
        self._logs.stop()

    def _report_earlier_crashes(self) -> None:
        """Pass on how earlier workers of this machine ended, and drop from the spool what nobody needs any more."""
        try:
            for worker, how in left_behind(self._crashes):
                _log.warning("the worker %s %s", worker, how)
                self._ledger.note_death(worker, how)
            self._spool.sweep(self._is_over)
        except FarmError as error:
            _log.warning("how earlier workers ended could not be reported: %s", error)

    def _is_over(self, job: str) -> bool:
        return any(status.is_over for status in self._ledger.get_many([job]))  # what is gone may be recovered

    def _take_the_bucket(self) -> None:
        """Make sure that the bucket is the ledger's own, as soon as Redis answers.

        Raises `WrongBucket`, and `LedgerRefused` if this worker may not even say in the ledger that it lives.
        """
        told = False
        while True:
            try:
                tie.tie(self._ledger, self._storage)
                self._announcer.say()
                return
            except LedgerRefused:
                raise
            except LedgerUnavailable as error:
                if not told:
                    _log.warning("waiting for Redis, to check whose bucket this is: %s", error)
                told = True
                self._leaving.wait(self._timing.again)

    def _on_ready(self) -> None:
        """Messages can come: from now on a signal asks the worker to leave in order."""
        self._leave.on_signals()
        self._is_ready = True
        self._announcer.announce()
        retry = partial(self._served.keep_trying, self._leaving, lambda _: self._announcer.announce())
        threading.Thread(target=retry, name="models-again", daemon=True).start()
        self._supply.start()
        _log.info("ready on %s: %s, %d slots", self._device, ", ".join(self._served.names), self._slots)


def start(options: Options) -> None:
    """Run a worker on the farm that the environment names. Raises `FarmError` if it cannot start."""
    if options.rows is not None and options.rows < 2:
        raise InvalidInput(f"{options.rows} is too few: a job under guidance takes two rows", field="rows")
    where = settings.load()
    worker = Worker(where, options)
    _log.info("worker %s on Redis %s, bucket %s", worker.id, where.redis_address, where.s3_bucket)
    worker.run()

"""Puts previews of running jobs into the bucket, on a thread of its own: no job ever waits for its preview.

Of each job only the newest waits to be put, and one that cannot be put is dropped: another follows.
"""

from __future__ import annotations

import logging
import threading

from farm import keys
from farm.bucket.preview import Preview
from farm.bucket.storage import Storage

_log = logging.getLogger(__name__)

_LAST_SECONDS = 5.0
"""What is still to be done when the worker ends may take this long."""


class Previews:
    """The previews of one worker's jobs. Nothing here raises, and nothing but `stop` waits."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._shown: set[str] = set()
        self._due: dict[str, Preview | None] = {}
        """What the bucket is to have of a job, None for nothing."""
        self._changed = threading.Condition()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread once it has done what is due, or leave it to that after some seconds."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(_LAST_SECONDS)

    def show(self, preview: Preview) -> None:
        """Show those who look how a job looks now."""
        with self._changed:
            self._shown.add(preview.job)
            self._due[preview.job] = preview
            self._changed.notify()

    def forget(self, job: str, *, attempt: int) -> None:
        """The job is over: remove what this attempt, or one whose worker died before it, has left of it."""
        with self._changed:
            if job in self._shown or attempt > 1:
                self._shown.discard(job)
                self._due[job] = None
                self._changed.notify()

    def let_go(self, job: str) -> None:
        """The job goes on elsewhere: whoever finishes it removes its preview."""
        with self._changed:
            self._shown.discard(job)
            self._due.pop(job, None)

    def _run(self) -> None:
        while task := self._next():
            job, preview = task
            try:
                if preview is None:
                    self._storage.delete(keys.preview(job))
                else:
                    self._storage.put(keys.preview(job), preview.to_png(), "image/png")
            except Exception as error:  # the thread serves all jobs
                _log.warning("the preview of job %s is not up to date: %s", job, error)

    def _next(self) -> tuple[str, Preview | None] | None:
        """Wait for something to do: what has been due for longest. None when there is nothing left to wait for."""
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._is_ending)
            if not self._due:
                return None
            job = next(iter(self._due))
            return job, self._due.pop(job)

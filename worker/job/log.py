"""What is logged on behalf of a job goes beside its objects in the bucket, so that nobody has to find the worker's log.

A record is a job's if the thread that works on the job made it, or another thread that names the job. Its last lines
are kept, and put into the bucket when an attempt ends that was anything but a plain success, on a thread of its own:
no job ever waits for its log, and one that cannot be put is dropped.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from farm import variables
from farm.bucket.job_log import MAX_CHARACTERS, MAX_LINE, MAX_LINES, AttemptLog, Level, LogLine, write_log
from farm.bucket.storage import Storage
from farm.ledger.records import Claim
from farm.settings import Settings

_log = logging.getLogger(__name__)

_MOST_WAITING = 1_000
_LAST_SECONDS = 5.0
"""What is still to be put when the worker ends may take this long."""
_LEAST_SECRET = 4
_HIDDEN = "…"


@dataclass(eq=False)
class JobLog:
    """The last lines that were logged of one attempt. `is_plain`: it went as is expected of every job."""

    claim: Claim
    is_plain: bool = False
    lines: deque[LogLine] = field(default_factory=deque)
    left_out: int = 0
    _characters: int = 0

    @property
    def tells(self) -> bool:
        """Whether anybody could want to read it."""
        return bool(self.lines) and not (self.is_plain and all(line.level == "info" for line in self.lines))

    def add(self, line: LogLine) -> None:
        """Keep a line, and the last of those before it that there is room for."""
        self.lines.append(line)
        self._characters += len(line.text)
        while len(self.lines) > MAX_LINES or self._characters > MAX_CHARACTERS:
            self._characters -= len(self.lines.popleft().text)
            self.left_out += 1


class JobLogs(logging.Handler):
    """The logs of one worker's jobs. No `secrets` get into them. Nothing here raises, and nothing but `stop` waits."""

    def __init__(self, storage: Storage, worker: str, secrets: Collection[str] = ()) -> None:
        super().__init__(logging.INFO)
        self._storage = storage
        self._worker = worker
        self._secrets = sorted((one for one in secrets if len(one) >= _LEAST_SECRET), key=len, reverse=True)
        self._ours: ContextVar[JobLog | None] = ContextVar("job_log", default=None)
        self._live: list[JobLog] = []
        self._guard = threading.RLock()  # a signal's handler may log while this thread does
        self._due: queue.Queue[AttemptLog | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="job-logs", daemon=True)

    def start(self) -> None:
        """From now on every record of this process is looked at."""
        self._thread.start()
        logging.getLogger().addHandler(self)

    def stop(self) -> None:
        """End the thread once it has put what is due, or leave it to that after some seconds."""
        logging.getLogger().removeHandler(self)
        try:
            self._due.put(None, timeout=_LAST_SECONDS)
        except queue.Full:
            return
        self._thread.join(_LAST_SECONDS)

    @contextmanager
    def about(self, claim: Claim) -> Iterator[JobLog]:
        """What is logged on this thread during the block is about the attempt; at its end the log is due."""
        log = JobLog(claim)
        with self._guard:
            self._live.append(log)
        token = self._ours.set(log)
        try:
            yield log
        finally:
            self._ours.reset(token)
            with self._guard:
                self._live.remove(log)
            if log.tells:
                self._put(log)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record that is a job's."""
        try:
            text = self._text(record)
            with self._guard:
                own = self._ours.get()
                for log in [own] if own else [log for log in self._live if log.claim.job in text]:
                    log.add(LogLine(at=datetime.fromtimestamp(record.created, UTC), level=_level(record), text=text))
        except Exception:
            self.handleError(record)

    def _text(self, record: logging.LogRecord) -> str:
        """What it says, without a traceback, which is in the worker's own log; and without anything secret."""
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]):
            text = f"{text}: {type(error).__name__}: {error}"
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text[:MAX_LINE]

    def _put(self, log: JobLog) -> None:
        made = AttemptLog(
            job=log.claim.job,
            attempt=log.claim.attempt,
            worker=self._worker,
            lines=tuple(log.lines),
            left_out=log.left_out,
        )
        try:
            self._due.put_nowait(made)
        except queue.Full:
            _log.debug("the log of job %s is dropped: the bucket takes none now", log.claim.job)

    def _run(self) -> None:
        while made := self._due.get():
            try:
                write_log(self._storage, made)
            except Exception as error:  # the thread serves all jobs
                _log.debug("the log of job %s is dropped: %s", made.job, error)


def secrets_of(where: Settings, environment: Mapping[str, str]) -> set[str]:
    """What a worker knows and nobody who looks at jobs should: passwords and keys, as they may be written."""
    password = urlsplit(where.redis_url).password or ""
    named = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", variables.KERNELS_KEY.name)
    given = {where.s3_access_key, where.s3_secret_key, *(environment.get(name) for name in named)}
    return {secret for secret in (password, unquote(password), *given) if secret}


def _level(record: logging.LogRecord) -> Level:
    return "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "info"

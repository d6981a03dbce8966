"""What is logged on behalf of a job is kept beside its objects: bounded, without secrets, and in nobody's way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from farm import keys
from farm.bucket.job_log import MAX_CHARACTERS, MAX_LINES, AttemptLog, read_log
from farm.errors import ObjectMissing, RenderError
from farm.ledger.records import Claim
from farm.settings import Settings
from tests.fakes.storage import FakeStorage
from tests.fakes.worker import FakeFarm, FakeWorker
from worker.job.log import JobLogs, secrets_of
from worker.job.retry import HandBack

_log = logging.getLogger("worker.somewhere")

JOB, OTHER = (f"{'0' * 16}-000{index}" for index in (0, 1))


@contextmanager
def listening(logs: JobLogs) -> Iterator[None]:
    """Records are looked at during the block, and what is due is put at its end."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    logs.start()
    try:
        yield
    finally:
        logs.stop()
        logging.getLogger().setLevel(level)


def claim(job: str = JOB, attempt: int = 1) -> Claim:
    return Claim(job, attempt, "{}", 5)


def texts(log: AttemptLog) -> list[str]:
    return [line.text for line in log.lines]


def test_what_its_thread_says_and_what_names_it_is_a_jobs() -> None:
    storage = FakeStorage()
    logs = JobLogs(storage, "w1")

    def elsewhere() -> None:
        _log.warning("unexpected error while rendering job %s#1", JOB)
        _log.warning("out of memory")

    with listening(logs):
        with logs.about(claim()), logs.about(claim(OTHER, 2)):
            _log.info("loading the model")
            _log.debug("too much detail")
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
        _log.warning("job %s is long gone", JOB)

    assert texts(read_log(storage, OTHER, 2)) == ["loading the model"], "of the innermost"
    first = read_log(storage, JOB, 1)
    assert texts(first) == [f"unexpected error while rendering job {JOB}#1"]
    assert (first.worker, first.lines[0].level) == ("w1", "warning")


def test_a_plain_success_leaves_no_log_unless_something_was_wrong() -> None:
    storage = FakeStorage()
    logs = JobLogs(storage, "w1")
    with listening(logs):
        with logs.about(claim()) as log:
            _log.info("done")
            log.is_plain = True
        with logs.about(claim(OTHER)) as log:
            _log.warning("it had to wait")
            log.is_plain = True
        with logs.about(claim(OTHER, 2)):
            pass
    assert list(storage.objects) == [keys.attempt_log(OTHER, 1)]


def test_the_last_lines_are_kept_and_no_traceback() -> None:
    storage = FakeStorage()
    logs = JobLogs(storage, "w1")
    with listening(logs):
        with logs.about(claim()):
            for number in range(MAX_LINES + 5):
                _log.warning("line %d", number)
            try:
                raise ZeroDivisionError("of nothing")
            except ZeroDivisionError:
                _log.exception("it failed\nfor a reason")
        with logs.about(claim(OTHER)):
            for number in range(40):
                _log.warning("%d %s", number, "x" * 5_000)

    log = read_log(storage, JOB, 1)
    assert (len(log.lines), log.left_out, log.lines[0].text) == (MAX_LINES, 6, "line 6")
    assert (log.lines[-1].text, log.lines[-1].level) == (
        "it failed for a reason: ZeroDivisionError: of nothing",
        "error",
    )
    long = read_log(storage, OTHER, 1)
    assert sum(len(line.text) for line in long.lines) <= MAX_CHARACTERS
    assert (long.lines[-1].text[:3], long.left_out + len(long.lines)) == ("39 ", 40)
    assert len(storage.objects[keys.attempt_log(OTHER, 1)]) < 2 * MAX_CHARACTERS


def test_no_secret_gets_into_a_log() -> None:
    where = Settings(
        redis_url="redis://:Redis%20Password@host:1/0", s3_access_key="ACCESSKEY", s3_secret_key="SecretKey"
    )
    named = {"FARM_KERNELS_KEY": "KernelsKey0123456", "AWS_SESSION_TOKEN": "Session", "HF_TOKEN": "hf_Token"}
    secrets = secrets_of(where, {**named, "PATH": "/usr/bin", "AWS_SECRET_ACCESS_KEY": ""})
    assert secrets == {"Redis%20Password", "Redis Password", "ACCESSKEY", "SecretKey", *named.values()}

    storage = FakeStorage()
    logs = JobLogs(storage, "w1", secrets)
    with listening(logs), logs.about(claim()):
        try:
            raise ValueError(f"wrong: {where.redis_url}, {where.s3_secret_key}")
        except ValueError:
            _log.exception("of %s", sorted(secrets))
        _log.warning("by the name %s", "Redis Password")

    stored = storage.objects[keys.attempt_log(JOB, 1)].decode()
    assert not [secret for secret in secrets if secret in stored]
    assert "wrong: redis://:…@host:1/0, …" in texts(read_log(storage, JOB, 1))[0]


def test_a_bucket_that_is_away_costs_the_log_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    storage = FakeStorage()
    logs = JobLogs(storage, "w1")
    with listening(logs):
        storage.outage.begin(1)
        for attempt in (1, 2):
            with logs.about(claim(attempt=attempt)):
                _log.warning("attempt %d", attempt)
    assert list(storage.objects) == [keys.attempt_log(JOB, 2)]
    assert [record.getMessage() for record in caplog.records] == ["attempt 1", "attempt 2"]


def test_an_attempt_that_fails_or_is_handed_back_says_why_beside_its_objects(
    farm: FakeFarm, worker: FakeWorker
) -> None:
    failed, handed_back, done = farm.submit(count=3)
    worker.engine.failures = {
        f"{failed}#1": RenderError("memory", "it does not fit"),
        f"{handed_back}#1": HandBack(),
    }
    with listening(worker.logs):
        for job in (failed, done, handed_back, handed_back):
            worker.work(job)

    assert texts(read_log(farm.storage, failed, 1)) == [f"job {failed} failed: it does not fit"]
    assert texts(read_log(farm.storage, handed_back, 1)) == [f"job {handed_back} handed back"]
    [ended] = texts(read_log(farm.storage, handed_back, 2))
    assert ended.startswith(f"job {handed_back} done in ") and ended.endswith("(attempt 2)")
    with pytest.raises(ObjectMissing):
        read_log(farm.storage, done, 1)

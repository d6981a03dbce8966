"""Looks a farm over: servers, bucket, workers, models, device, packages and disk, and says how to mend each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import settings as farm_settings
from farm.errors import FarmError, HomeRefused, NotConfigured, StorageError, WrongBucket
from farm.host import homes
from farm.keys import BATCHES
from farm.settings import Settings
from farm.stack import control, site
from farm.stack.layout import Layout
from farm.stack.machine import device, packages
from farm.stack.verdict import Check, fail, ok, warn

if TYPE_CHECKING:
    from farm.ledger.ledger import Ledger

PROBE_KEY = "probes/doctor"
_GIGABYTE = 1_000_000_000
_CLOCK_SECONDS = 60.0
_SKEW_SECONDS = 900.0
_UNWATCHED_SECONDS = 30.0
_TIGHT = 5 * _GIGABYTE
# SeaweedFS takes no more objects when less than this share of its disk is free.
_READ_ONLY_SHARE = 0.01


def examine() -> Iterator[Check]:
    """Every check, as it is made. A check that cannot be made is a failed one; none raises `FarmError`."""
    try:
        settings = farm_settings.load()
    except NotConfigured as error:
        yield fail("farm", error.message, mend=error.hint)
    except FarmError as error:
        yield fail("farm", error.message, mend=error.hint or "correct the variable")
    else:
        yield from _servers(settings)
    yield device()
    yield packages()
    yield from _home()


def _servers(settings: Settings) -> Iterator[Check]:
    from farm.ledger.ledger import Ledger
    from farm.stack import redis_checks

    yield _guarded("farm", lambda: _farm(settings))
    if settings.local:
        yield from _site()
    redis = list(redis_checks.examine(settings))
    yield from redis
    ledger = None if any(check.verdict == "fail" for check in redis) else Ledger(settings)
    yield from _of_the_bucket(settings, ledger)
    yield _guarded("clock", lambda: _clock(settings))
    if ledger is None:
        return
    yield _guarded("jobs", lambda: _jobs(ledger, settings))
    yield _guarded("reaper", lambda: _reaper(ledger))
    yield _guarded("workers", lambda: _workers(ledger, settings))
    yield _guarded("models", lambda: _models(ledger, settings))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except FarmError as error:
        return fail(name, error.message, mend=error.hint)


def _farm(settings: Settings) -> Check:
    if not settings.local:
        return ok("farm", f"servers named by the environment: Redis {settings.redis_address}")
    home = farm_settings.home()
    status = control.status(home)
    if status is None:
        return fail("farm", f"the local farm in {home} has just been stopped", mend="'farm up' starts it again")
    for child in status.children:
        if child.given_up:
            mend = f"see {child.log}, then 'farm down' and 'farm up'"
            return fail("farm", f"{child.name} cannot run (exit status {child.last_exit})", mend=mend)
        if not child.runs:
            return fail("farm", f"{child.name} died and is about to be restarted", mend=f"see {child.log}")
    if restarted := [child for child in status.children if child.restarts]:
        names = ", ".join(f"{child.name} ({child.restarts}×)" for child in restarted)
        return warn("farm", f"local, in {home}; had to restart {names}", mend=f"see the logs in {Layout(home).logs}")
    return ok("farm", f"local, in {home}: {', '.join(child.name for child in status.children)}")


def _site() -> Iterator[Check]:
    """Whether the site of the local farm lets browsers in."""
    home = farm_settings.home()
    farm = control.status(home)
    if farm is None or not any(child.name == site.NAME for child in farm.children):
        if farm is not None:
            yield ok("site", "the farm runs without it: 'farm web' serves it")
        return
    address, trouble = site.looked_at(home)
    if trouble:
        yield fail("site", f"{address or 'it'}: {trouble}", mend=f"see {Layout(home).log(site.NAME)}")
    else:
        yield ok("site", f"{address} answers; 'farm web --address' tells how a browser comes in")


def _of_the_bucket(settings: Settings, ledger: Ledger | None) -> Iterator[Check]:
    """Whether it is the ledger's, and works; another is not tried, for some servers make a bucket at the first put."""
    if ledger is not None:
        try:
            tied = _tie(ledger, settings)
        except WrongBucket as error:
            yield fail("ledger and bucket", error.message, mend=error.hint)
            return
        except FarmError as error:
            mend = "see the other checks of Redis and the bucket"
            tied = warn("ledger and bucket", f"cannot be compared: {error.message}", mend=mend)
        yield tied
    yield _guarded("bucket", lambda: _bucket(settings))


def _bucket(settings: Settings) -> Check:
    from farm.bucket.connection import authority
    from farm.bucket.storage import Storage

    storage, began = Storage(settings), time.monotonic()
    content = str(time.time_ns()).encode()
    where = f"s3://{storage.bucket} at {storage.endpoint}"
    storage.put(PROBE_KEY, content, "text/plain")
    try:
        if storage.get(PROBE_KEY) != content:
            return fail("bucket", f"{where} does not give back the bytes that were put", mend="is a cache in between?")
        if PROBE_KEY not in [found.key for found in storage.list(PROBE_KEY)]:
            return fail("bucket", f"{where} does not list what was put", mend="allow s3:ListBucket")
        trouble = _cannot_open(storage.presign(PROBE_KEY), content, authority(settings))
    finally:
        storage.delete(PROBE_KEY)
    if trouble:
        mend = "does FARM_S3_PUBLIC_ENDPOINT name an address that this machine can reach?"
        return warn("bucket", f"{where}: works, but a presigned link does not open: {trouble}", mend=mend)
    took = (time.monotonic() - began) * 1000
    return ok("bucket", f"{where}: put, get, list, presign, delete in {took:.0f} ms")


def _clock(settings: Settings) -> Check:
    """Only signatures depend on it: the server refuses those that are made 15 minutes too early or too late."""
    from farm.bucket.storage import Storage

    offset = Storage(settings).clock_offset()
    if offset is None:
        return ok("clock", "the S3 server does not tell the time")
    if abs(offset) < _CLOCK_SECONDS:
        return ok("clock", "agrees with the S3 server's")
    detail = f"this machine's is {abs(offset):,.0f} s {'behind' if offset > 0 else 'ahead of'} the S3 server's"
    mend = "set it, best by NTP: from 900 s on the server refuses everything"
    return (fail if abs(offset) >= _SKEW_SECONDS else warn)("clock", detail, mend=mend)


def _cannot_open(link: str, content: bytes, authority: str | None) -> str | None:
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import HTTPClientError
    from botocore.httpsession import URLLib3Session

    verify: Any = authority or True  # its types know no file
    try:
        answer = URLLib3Session(verify=verify, timeout=10).send(AWSRequest("GET", link).prepare())
    except HTTPClientError as error:
        return str(error)
    if answer.status_code != 200:
        return f"HTTP status {answer.status_code}"
    return None if answer.content == content else "it gives other bytes"


def _tie(ledger: Ledger, settings: Settings) -> Check:
    from farm.bucket.storage import Storage
    from farm.client import tie

    if ledger.tie() is None:
        return ok("ledger and bucket", "the ledger has no bucket yet: the first worker or job decides")
    told = tie.tie(ledger, Storage(settings))
    return ok("ledger and bucket", f"the bucket '{told.bucket}' is the ledger's own")


def _jobs(ledger: Ledger, settings: Settings) -> Check:
    from farm.bucket.storage import Storage

    counts = ledger.counts()
    if not any(counts.values()) and next(Storage(settings).list(BATCHES), None):
        mend = "was Redis lost? 'farm recover' rebuilds the ledger from the bucket"
        return warn("jobs", "the bucket holds batches, but the ledger knows no jobs", mend=mend)
    if quarantined := ledger.quarantined():
        job, why = next(iter(sorted(quarantined.items())))
        detail = f"{len(quarantined):,} in quarantine, such as {job}: {why}"
        return warn("jobs", detail, mend="'farm recover' rebuilds them; and who else writes to this Redis?")
    return ok("jobs", ", ".join(f"{count:,} {state}" for state, count in counts.items() if count) or "none yet")


def _reaper(ledger: Ledger) -> Check:
    """Whether anybody looks for the jobs of dead workers; where no worker lives, nobody has to."""
    watched = ledger.watched()
    ready = [worker for worker in ledger.workers() if worker.state == "ready"]
    if not ready:
        return ok("reaper", "no worker is ready, so none looks for lost jobs")
    if (ledger.time() - min(worker.started for worker in ready)).total_seconds() < _UNWATCHED_SECONDS:
        return ok("reaper", "workers have only just begun, and look for lost jobs from now on")
    mend = "see the log of each worker for what keeps it from reaping, and start it again"
    if watched.ago is None or watched.ago > _UNWATCHED_SECONDS:
        since = "yet" if watched.ago is None else f"in the last {watched.ago:.0f} s"
        return fail("reaper", f"workers are alive, but none has looked for lost jobs {since}", mend=mend)
    if watched.overdue:
        detail = f"the leases of {watched.overdue:,} jobs lapsed over a minute ago, but nobody takes the jobs back"
        return fail("reaper", detail, mend=mend)
    return ok("reaper", "lost jobs are looked for")


def _workers(ledger: Ledger, settings: Settings) -> Check:
    live = ledger.workers()
    if not live:
        return warn("workers", "none alive: jobs are kept, and wait", mend="start one: 'farm worker'")
    if drained := [worker for worker in live if worker.drained]:
        mend = f"if they are to take jobs again: 'farm workers resume {drained[0].name}'"
        return warn("workers", f"drained by an operator: {', '.join(worker.id for worker in drained)}", mend=mend)
    paused = [worker for worker in live if worker.paused]
    if paused:
        mend = "the worker's log says more; it resumes by itself"
        return warn("workers", "; ".join(f"{worker.id} takes no jobs: {worker.paused}" for worker in paused), mend=mend)
    refused = [f"{worker.id} does not serve {name}: {why}" for worker in live for name, why in worker.refused.items()]
    if refused:
        names = {name for worker in live for name in worker.refused}
        return warn("workers", "; ".join(refused), mend=_mends(names, _kept(settings)))
    return ok("workers", ", ".join(f"{worker.id} ({worker.device}, {worker.state})" for worker in live))


def _mends(refused: Collection[str], kept: Collection[str]) -> str:
    """What to do of models that workers cannot load; those that the farm keeps are read again by themselves."""
    own = "mend the model or leave it out, and start the worker again"
    if not (ours := sorted(name for name in refused if name in kept)):
        return own
    mend = f"'farm models add {ours[0]}=SOURCE --replace', or 'farm models remove {ours[0]}'"
    return mend if len(ours) == len(refused) else f"{mend}; of a worker's own, {own}"


def _kept(settings: Settings) -> Collection[str]:
    """The models that the farm keeps; none if the bucket does not tell, of which there is another check."""
    from farm.bucket.models import manifests
    from farm.bucket.storage import Storage

    try:
        return manifests(Storage(settings))
    except StorageError:
        return ()


def _models(ledger: Ledger, settings: Settings) -> Check:
    from farm.client.waits import what_to_do

    served = {model for worker in ledger.workers() for model in worker.models}
    starved = [model for model in ledger.models() if model not in served and ledger.waiting(model)]
    if starved:
        name, kept = starved[0], _kept(settings)
        if name in kept and any(name in worker.refused for worker in ledger.workers()):
            mend = f"{_mends({name}, kept)}; or cancel the jobs"
        else:
            mend = f"{what_to_do(name, ledger.workers(), lambda: kept)}; or cancel the jobs"
        return warn("models", f"jobs wait for {', '.join(starved)}, which no live worker serves", mend=mend)
    return ok("models", f"served: {', '.join(sorted(served)) or 'none'}")


def _home() -> Iterator[Check]:
    """Workers keep things there whosever the servers are; without one they render all the same."""
    try:
        home = farm_settings.home()
        homes.check(home)
    except HomeRefused as error:
        yield warn("home", error.message, mend=error.hint)
    else:
        yield _disk(home)


def _disk(home: Path) -> Check:
    folder = next(folder for folder in (home, *home.parents) if folder.exists())
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / _GIGABYTE:.1f} GB free of {usage.total / _GIGABYTE:.0f} GB for {home}"
    if usage.free < max(_READ_ONLY_SHARE * usage.total, 0.2 * _GIGABYTE):
        return fail("disk", free, mend="make room: the local S3 server takes nothing below 1 % free")
    if usage.free < _TIGHT:
        return warn("disk", free, mend="make room, or set FARM_HOME to another disk")
    return ok("disk", free)

"""A running local farm: what it listens on, whom it lets in, and what it tells its workers."""

from __future__ import annotations

import json
import socket
import stat
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from farm import settings as farm_settings
from farm import stack
from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.errors import StackError, StorageError
from farm.jobs.request import JobRequest
from farm.settings import Settings
from tests.stack.doors import doors_of
from tests.stack.farms import Farm
from tests.waiting import eventually

Running = tuple[Farm, Settings]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_every_command_finds_it_by_its_home(running: Running) -> None:
    farm, settings = running
    assert farm_settings.load({"FARM_HOME": str(farm.home)}) == settings
    assert farm.status.workers == 2
    assert [child.name for child in farm.status.children] == ["redis", "s3", "local-1", "local-2"]


def test_redis_keeps_what_it_is_told(running: Running) -> None:
    client = redis.Redis.from_url(running[1].redis_url, decode_responses=True)
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
    wanted |= {"timeout": "60", "tcp-keepalive": "30"}
    assert {name: client.config_get(name)[name] for name in wanted} == wanted
    client.close()


def test_whoever_says_nothing_loses_the_connection_and_our_clients_do_not_mind(running: Running) -> None:
    _, settings = running
    job = JobRequest(prompt="x", model="sd14")
    with (
        redis.Redis.from_url(settings.redis_url) as watching,
        FarmClient(settings) as client,
        socket.create_connection(("127.0.0.1", urlsplit(settings.redis_url).port or 0), timeout=60) as idle,
    ):
        first = client.submit([job])
        watching.config_set("timeout", 1)
        try:
            eventually(lambda: len(watching.client_list()) == 1, "all but the one that looks are idle and closed")
            assert idle.recv(1) == b""
        finally:
            watching.config_set("timeout", 60)
        second = client.submit([job])
        client.cancel([first.batch, second.batch])


def test_the_bucket_works(running: Running) -> None:
    storage = Storage(running[1])
    storage.put("some/key", b"bytes", "text/plain")
    assert storage.get("some/key") == b"bytes"
    assert [found.key for found in storage.list("some/")] == ["some/key"]
    assert not list(storage.list("probes/")), "the start leaves nothing of its own"


@linux_only
def test_nothing_listens_beyond_this_machine(running: Running) -> None:
    listening = [door for door in doors_of(running[0].status.pid) if door.kind != "unix"]
    assert len(listening) >= 2
    assert {(door.kind, door.address) for door in listening} == {("tcp", "127.0.0.1")}


def test_wrong_passwords_are_refused(running: Running) -> None:
    _, settings = running
    address = settings.redis_address
    for url in (f"redis://{address}", f"redis://:guess@{address}"):
        client = redis.Redis.from_url(url)
        with pytest.raises(redis.AuthenticationError):
            client.ping()
        client.close()
    for wrong in (replace(settings, s3_secret_key="guess"), replace(settings, s3_access_key="guess")):
        with pytest.raises(StorageError, match="access denied"):
            Storage(wrong).put("some/key", b"bytes", "text/plain")


@linux_only
def test_no_secret_is_in_the_process_list(running: Running) -> None:
    farm, settings = running
    kept = json.loads(farm.layout.credentials.read_text(encoding="utf-8"))
    secrets = [text for name, text in kept.items() if name != "ports"] + [settings.redis_url]
    for pid in farm.pids().values():
        shown = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        assert not [secret for secret in secrets if secret in shown]


def test_secrets_are_readable_by_their_owner_only(running: Running) -> None:
    farm, _ = running
    assert stat.S_IMODE(farm.home.stat().st_mode) == 0o700
    files = [farm.layout.state, farm.layout.credentials, farm.layout.redis / "redis.conf"]
    files += [farm.layout.s3 / name for name in ("identities.json", "security.toml", "inner.key")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_secrets_are_not_shown(running: Running) -> None:
    farm, settings = running
    kept = json.loads(farm.layout.credentials.read_text(encoding="utf-8"))
    for log in farm.layout.logs.iterdir():
        text = log.read_text(errors="replace", encoding="utf-8")
        assert kept["redis_password"] not in text
        assert kept["s3_secret_key"] not in text
        assert kept["internal_key"] not in text
    assert kept["redis_password"] not in repr(settings)


def test_workers_are_told_who_and_where_they_are(running: Running) -> None:
    farm, _ = running
    for name in ("local-1", "local-2"):
        file = farm.home / f"{name}.json"
        eventually(file.exists, f"{name} has started")
        told = json.loads(file.read_text(encoding="utf-8"))
        assert told["arguments"] == ["--name", name, "--model", "emoji=/dev/null"]
        assert told["environment"]["FARM_HOME"] == str(farm.home)
        assert not [variable for variable in told["environment"] if variable.startswith(("FARM_REDIS", "FARM_S3"))]


def test_a_second_farm_in_its_home_is_refused(running: Running) -> None:
    farm, settings = running
    with pytest.raises(StackError, match=f"already running in .* \\(process {farm.status.pid}\\)"):
        farm.start()
    with pytest.raises(StackError, match="already running"):
        stack.up(farm.home, 0)
    assert farm_settings.load_local(farm.home) == settings

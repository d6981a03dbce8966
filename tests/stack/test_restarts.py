"""What outlives what: data its servers, servers a kill, and a home the supervisor that died in it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from farm import stack
from farm.bucket.storage import Storage
from farm.errors import StackError, StorageError
from farm.host import lock
from farm.settings import Settings, load_local
from farm.stack import credentials, servers, state
from tests.stack.farms import Farm, lives
from tests.waiting import eventually


def test_data_and_addresses_survive_down_and_up(farm: Farm) -> None:
    first = farm.start()
    _write(first)
    assert stack.stop(farm.home)
    assert load_local(farm.home) is None

    second = farm.start()
    assert second == first
    assert _kept(second)
    stack.stop(farm.home)

    takers = [socket.create_server(("127.0.0.1", port)) for port in _ports(farm)]
    try:
        third = farm.start()
    finally:
        for taker in takers:
            taker.close()
    assert third.redis_address != first.redis_address
    assert third.s3_endpoint != first.s3_endpoint
    assert _kept(third), "whoever took the ports meanwhile"


def test_a_port_taken_between_the_look_and_the_start_is_replaced(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.layout.create()
    kept = credentials.load(farm.layout.credentials)
    taken = kept.ports["redis"]
    look, looks = credentials.is_free, iter(("too early",))
    monkeypatch.setattr(
        credentials, "is_free", lambda port: next(looks, "late") == "too early" if port == taken else look(port)
    )
    ready: list[Settings] = []

    def stop_when_ready(settings: Settings) -> None:
        ready.append(settings)
        os.kill(os.getpid(), signal.SIGINT)

    with socket.create_server(("127.0.0.1", taken)):
        stack.up(farm.home, 0, ready=stop_when_ready)
    assert urlsplit(ready[0].redis_url).port != taken


def is_another(farm: Farm, name: str, than: int) -> bool:
    """Whether a child of the farm has another process than it had."""
    return farm.pid(name) != than


def test_a_killed_child_comes_back(farm: Farm) -> None:
    settings = farm.start(workers=1)
    _write(settings)
    for name in ("local-1", "redis", "s3"):
        killed = farm.pid(name)
        os.kill(killed, signal.SIGKILL)
        eventually(partial(is_another, farm, name, killed), f"{name} has another process")
        assert not lives(killed)
        child = next(child for child in farm.status.children if child.name == name)
        assert (child.restarts, child.last_exit) == (1, -signal.SIGKILL)
    eventually(lambda: _kept(settings), "the farm works as before")


def test_workers_that_end_by_themselves(farm: Farm) -> None:
    """One that refuses its options is given up; one that crashes is tried less and less."""
    settings = farm.start(workers=2, script="import sys; print('why'); sys.exit(2 if 'local-1' in sys.argv else 1)")
    eventually(lambda: farm.status.children[3].restarts >= 3, "local-2 is tried again")
    eventually(lambda: farm.status.children[2].given_up, "local-1 is given up")
    assert farm.status.children[2].restarts == 0
    delays = [line.rsplit(" ", 2)[1] for line in _log(farm, "supervisor") if "local-2 ended" in line]
    assert delays[:3] == ["0.2", "0.4", "0.8"]
    with pytest.raises(StackError, match=r"local-1 does not start \(exit status 2\)[^$]*why"):
        stack.wait_for_workers(farm.home, settings)


def test_a_killed_supervisor_leaves_no_orphans(farm: Farm) -> None:
    _write(farm.start(workers=2))
    pids = farm.pids()
    os.kill(pids["supervisor"], signal.SIGKILL)
    settings = farm.start()
    assert not any(map(lives, pids.values())), "the home is free only when they are gone"
    assert _kept(settings)


def test_a_killed_guard_is_replaced(farm: Farm) -> None:
    farm.start()
    pids = farm.pids()
    guard = eventually(lambda: _guard_of(pids["supervisor"]), "the guard runs")
    os.kill(guard, signal.SIGKILL)
    eventually(lambda: _guard_of(pids["supervisor"]) not in (None, guard), "another guard runs")
    os.kill(pids["supervisor"], signal.SIGKILL)
    eventually(lambda: not any(map(lives, pids.values())), "every process is dead")
    eventually(lambda: not lock.is_held(farm.layout.lock), "the home is free")
    assert stack.status(farm.home) is None
    assert load_local(farm.home) is None, "no command is sent to servers that are gone"


def test_what_a_power_cut_left_is_not_a_running_farm(new_farm: Callable[[str], Farm]) -> None:
    farm = new_farm("cut off")
    left = state.FarmStatus(pid=os.getpid(), started=datetime.now(UTC), workers=1, models=(), children=())
    farm.layout.create()
    gone = servers.settings_for(credentials.load(farm.layout.credentials))

    state.write(farm.layout, gone, left)
    farm.layout.lock.write_text(str(os.getpid()), encoding="utf-8")
    assert stack.status(farm.home) is None
    assert not stack.stop(farm.home)
    assert not farm.layout.state.exists()

    state.write(farm.layout, gone, left)
    assert farm.start() == gone
    assert farm.status.pid != os.getpid()


def test_two_farms_live_side_by_side(new_farm: Callable[[str], Farm]) -> None:
    one, other = new_farm("one"), new_farm("the other" + "r" * 150)
    first, second = one.start(), other.start()
    _write(first)
    assert not _kept(second)
    stack.stop(one.home)
    _write(second)
    assert _kept(second)


def _write(settings: Settings) -> None:
    with redis.Redis.from_url(settings.redis_url) as client:
        client.set("kept", "yes")
        client.config_set("appendfsync", "always")
    Storage(settings).put("kept", b"yes" * 1000, "text/plain")


def _kept(settings: Settings) -> bool:
    storage = Storage(settings)
    with redis.Redis.from_url(settings.redis_url) as client:
        try:
            return client.get("kept") == b"yes" and storage.get("kept") == b"yes" * 1000
        except (redis.ConnectionError, StorageError):
            return False


def _ports(farm: Farm) -> list[int]:
    return list(credentials.load(farm.layout.credentials).ports.values())


def _log(farm: Farm, name: str) -> list[str]:
    return farm.layout.log(name).read_text(encoding="utf-8").splitlines()


def _guard_of(supervisor: int) -> int | None:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="utf-8").split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if "guard.py" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8"):
                return int(child)
    return None

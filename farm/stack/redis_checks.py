"""What `farm doctor` asks of Redis: does it answer, keep what it is told, and keep strangers out?"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import redis

from farm.settings import Settings
from farm.stack.verdict import Check, fail, ok, warn

# The Redis of the oldest supported Linux distributions; the ledger's scripts need nothing newer.
_OLDEST = (6, 0)
_TIMEOUT = 5.0


def examine(settings: Settings) -> Iterator[Check]:
    """Reachability and version first; the other checks only where that one succeeds."""
    client = _client(settings.redis_url)
    try:
        server: dict[str, Any] = client.info("server")
    except redis.AuthenticationError:
        mend = "put the right password into FARM_REDIS_URL: redis://:PASSWORD@HOST:PORT/0"
        yield fail("redis", f"Redis at {settings.redis_address} refuses the password", mend=mend)
    except redis.RedisError as error:
        mend = f"see {'logs/redis.log in the home' if settings.local else 'that it runs, and the firewall between'}"
        yield fail("redis", f"Redis at {settings.redis_address} does not answer: {error}", mend=mend)
    else:
        yield _version(settings, server)
        yield _setting(client, "appendonly", "yes", "it forgets the last minutes of the ledger in a crash")
        yield _setting(client, "maxmemory-policy", "noeviction", "it may drop jobs when its memory is full")
        yield _access(settings)
    finally:
        client.close()


def _version(settings: Settings, server: dict[str, Any]) -> Check:
    name = "Valkey" if "valkey_version" in server else "Redis"
    version = str(server.get("valkey_version") or server["redis_version"])
    where = f"{name} {version} at {settings.redis_address}"
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return warn("redis", f"{where} is older than 6.0", mend="upgrade it")
    return ok("redis", where)


def _setting(client: redis.Redis, name: str, wanted: str, otherwise: str) -> Check:
    try:
        found = client.config_get(name).get(name)
    except redis.RedisError as error:
        # Managed servers forbid CONFIG.
        return warn(
            f"redis {name}", f"cannot be read ({error})", mend=f"see in the server's settings that it is {wanted}"
        )
    if found == wanted:
        return ok(f"redis {name}", wanted)
    mend = f"set '{name} {wanted}' in redis.conf, or: redis-cli CONFIG SET {name} {wanted}"
    return warn(f"redis {name}", f"{found}: {otherwise}", mend=mend)


def _access(settings: Settings) -> Check:
    parts = urlsplit(settings.redis_url)
    stranger = _client(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    try:
        stranger.ping()
    except redis.RedisError:
        return ok("redis access", "asks for a password")
    finally:
        stranger.close()
    mend = "set 'requirepass' in redis.conf, and the password in FARM_REDIS_URL"
    if _is_loopback(parts.hostname or "localhost"):
        return warn("redis access", "open to every user of this machine", mend=mend)
    return warn("redis access", "open: whoever reaches it can read and forge jobs", mend=mend)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, decode_responses=True, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=None
    )

"""What `farm doctor` asks of Redis: does it answer, keep what it is told, keep strangers out, and have room?"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import redis

from farm.access import unavailable
from farm.errors import LedgerRefused
from farm.settings import Settings
from farm.stack.verdict import Check, fail, ok, warn

# The Redis of the oldest supported Linux distributions; the ledger's scripts need nothing newer.
_OLDEST = (6, 0)
_TIMEOUT = 5.0
_CROWDED = 0.8
"""The share of its connections from which on Redis is said to be near its limit."""
_FULL = "max number of clients reached"
_MEND_CROWD = (
    "redis-cli CLIENT LIST shows whose they are; in redis.conf 'timeout 60' ends idle ones, 'maxclients' is the limit"
)
_PROBE_MS = 10_000


def examine(settings: Settings) -> Iterator[Check]:
    """Reachability and version first; the other checks only where that one succeeds."""
    client = _client(settings.redis_url)
    try:
        server: dict[str, Any] = client.info("server")
    except redis.AuthenticationError:
        mend = "put the right password into FARM_REDIS_URL: redis://:PASSWORD@HOST:PORT/0"
        yield fail("redis", f"Redis at {settings.redis_address} refuses the password", mend=mend)
    except redis.RedisError as error:
        meaning = unavailable(settings.redis_address, error)
        if isinstance(meaning, LedgerRefused):
            yield fail("redis", meaning.message, mend=meaning.hint)
            return
        mend = f"see {'logs/redis.log in the home' if settings.local else 'that it runs, and the firewall between'}"
        if _FULL in str(error):
            mend = _MEND_CROWD
        yield fail("redis", f"Redis at {settings.redis_address} does not answer: {error}", mend=mend)
    else:
        yield _version(settings, server)
        yield _writes(client, settings)
        yield from _survival(client, server)
        yield _setting(client, "appendonly", "yes", "it forgets the last minutes of the ledger in a crash")
        yield _setting(client, "maxmemory-policy", "noeviction", "it may drop jobs when its memory is full")
        yield _access(client, settings)
        yield _connections(client)
    finally:
        client.close()


def _connections(client: redis.Redis) -> Check:
    """Beyond the limit Redis turns everybody away, workers too."""
    try:
        told: dict[str, Any] = client.info("clients")
        limit: Any = (
            told.get("maxclients") or client.config_get("maxclients")["maxclients"]
        )  # Redis 6 has it there alone
    except (redis.RedisError, KeyError) as error:
        return warn("redis connections", f"cannot be counted ({error})", mend="see the server's own figures")
    taken, most = int(told["connected_clients"]), int(limit)
    detail = f"{taken:,} of {most:,} taken"
    if taken < _CROWDED * most:
        return ok("redis connections", detail)
    return warn("redis connections", f"{detail}: beyond that nobody gets in", mend=_MEND_CROWD)


def _version(settings: Settings, server: dict[str, Any]) -> Check:
    name = "Valkey" if "valkey_version" in server else "Redis"
    version = str(server.get("valkey_version") or server["redis_version"])
    where = f"{name} {version} at {settings.redis_address}"
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return warn("redis", f"{where} is older than 6.0", mend="upgrade it")
    return ok("redis", where)


def _writes(client: redis.Redis, settings: Settings) -> Check:
    """Whether it keeps what it is told now: a lapsing key of the doctor's own is written and read back."""
    content, where = secrets.token_hex(8), f"Redis at {settings.redis_address}"
    key = f"farm:probe:doctor:{content}"
    try:
        client.set(key, content, px=_PROBE_MS)
        if client.get(key) != content:
            return fail("redis writes", f"{where} does not give back what it was told", mend="is a proxy in between?")
        client.delete(key)
    except redis.exceptions.ReadOnlyError:
        mend = "name the primary in FARM_REDIS_URL, or promote this one: redis-cli REPLICAOF NO ONE"
        return fail("redis writes", f"{where} is {_role(client)}: it takes no writes", mend=mend)
    except redis.RedisError as error:
        mend = "see its log: a full disk and a full memory are the usual causes"
        return fail("redis writes", f"{where} takes no writes: {error}", mend=mend)
    return ok("redis writes", "what is written is read back")


def _role(client: redis.Redis) -> str:
    try:
        told: dict[str, Any] = client.info("replication")
    except redis.RedisError:
        return "a replica"
    return f"a replica of {told.get('master_host', '?')}:{told.get('master_port', '?')}"


def _survival(client: redis.Redis, server: dict[str, Any]) -> Iterator[Check]:
    """Redis 7 and 8 with the default user off drop what scripts wrote as they load the file they append to.

    Where CONFIG and ACL are forbidden, nothing is said.
    """
    version = str(server.get("redis_version", ""))
    if "valkey_version" in server or not version.startswith(("7.", "8.")) or _told(client, "appendonly") != "yes":
        return
    try:
        user: Any = client.acl_getuser("default")
    except redis.RedisError:
        return
    if user and "off" in user.get("flags", ()):
        mend = (
            "give the default user a strong password instead: ACL SETUSER default on resetpass '>PASSWORD' '~*' '+@all'"
        )
        detail = f"Redis {version} with 'user default off' forgets most of the ledger when it restarts"
        yield warn("redis default user", detail, mend=mend)


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


def _access(client: redis.Redis, settings: Settings) -> Check:
    """Who gets in. Asked of as a stranger, without the password, and of its own settings where it tells them."""
    parts = urlsplit(settings.redis_url)
    ours_alone = _is_loopback(parts.hostname or "localhost")
    bind, protected = _told(client, "bind"), _told(client, "protected-mode")
    beyond = bind is not None and not all(map(_is_loopback, _addresses(bind)))
    if not _lets_in(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()):
        if ours_alone and beyond and parts.scheme == "redis":
            mend = "set 'bind 127.0.0.1' in redis.conf, or let other machines reach it by TLS only (rediss://)"
            return warn("redis access", "asks for a password, but other machines reach it in clear", mend=mend)
        return ok("redis access", "asks for a password")
    mend = "set 'requirepass' in redis.conf, and the password in FARM_REDIS_URL"
    if not ours_alone or (beyond and protected == "no"):
        return warn("redis access", "open: whoever reaches it can read and forge jobs", mend=mend)
    return warn("redis access", "open to every user of this machine", mend=mend)


def _lets_in(url: str) -> bool:
    client = _client(url)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _told(client: redis.Redis, name: str) -> str | None:
    """A setting, or None where a managed server forbids CONFIG."""
    try:
        return str(client.config_get(name).get(name))
    except redis.RedisError:
        return None


def _addresses(bind: str) -> list[str]:
    """The addresses of a `bind`; without any, Redis listens on every interface. A `-` says: if there is such a one."""
    return [address.removeprefix("-") for address in bind.split()] or ["*"]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, decode_responses=True, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=None
    )

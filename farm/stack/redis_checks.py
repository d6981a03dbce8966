"""What `farm doctor` asks of Redis: does it answer, keep what it is told, keep strangers out, and have room?"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import redis

from farm.errors import LedgerRefused
from farm.ledger.redis_errors import KEYS, Lack, lack, unavailable
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
_SETTINGS = (
    ("appendonly", "yes", "it forgets the last minutes of the ledger in a crash"),
    ("maxmemory-policy", "noeviction", "it may drop jobs when its memory is full"),
)


def examine(settings: Settings) -> Iterator[Check]:
    """Reachability first; the other checks only where that one succeeds."""
    client = _client(settings.redis_url)
    try:
        _ping(client)
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
        questions = Questions(client)
        yield _version(questions, settings)
        yield _writes(client, settings)
        yield from _survival(questions)
        for name, wanted, otherwise in _SETTINGS:
            yield from _setting(questions, name, wanted, otherwise)
        yield _access(questions, settings)
        yield from _connections(questions)
        yield from questions.unanswered()
    finally:
        client.close()


@dataclass
class Questions:
    """What not everybody may ask: users with the least rights may not, and managed servers answer nobody."""

    client: Any
    refused: dict[str, None] = field(default_factory=dict)
    unchecked: dict[str, None] = field(default_factory=dict)

    def info(self, section: str, *, about: str = "") -> dict[str, Any]:
        """One section of the server's figures; none if it does not give them."""
        return self._ask("INFO", self.client.info, section, about) or {}

    def setting(self, name: str, *, about: str = "") -> str | None:
        """A setting, or None if the server does not give it."""
        found = self._ask("CONFIG GET", self.client.config_get, name, about) or {}
        return str(found[name]) if name in found else None

    def user(self, name: str) -> dict[str, Any]:
        return self._ask("ACL GETUSER", self.client.acl_getuser, name, "") or {}

    def _ask(self, command: str, ask: Callable[[str], Any], what: str, about: str) -> Any:
        try:
            return ask(what)
        except redis.RedisError:
            if about:
                self.refused[command] = self.unchecked[about] = None
            return None

    def unanswered(self) -> Iterator[Check]:
        """One line for everything that somebody should know and the server did not say."""
        if self.unchecked:
            wanted = ", ".join(f"{name} {wanted}" for name, wanted, _ in _SETTINGS if name in self.unchecked)
            mend = f"see in the server's own settings: {wanted}" if wanted else "see the server's own figures"
            asked, about = ", ".join(self.refused), ", ".join(self.unchecked)
            yield warn("redis questions", f"may not ask {asked}, so these were not checked: {about}", mend=mend)


def _connections(questions: Questions) -> Iterator[Check]:
    """Beyond the limit Redis turns everybody away, workers too."""
    told = questions.info("clients", about="connections")
    if "connected_clients" not in told:
        return
    limit = told.get("maxclients") or questions.setting("maxclients", about="connections")  # Redis 6 has it there alone
    if limit is None:
        return
    taken, most = int(told["connected_clients"]), int(limit)
    detail = f"{taken:,} of {most:,} taken"
    if taken < _CROWDED * most:
        yield ok("redis connections", detail)
    else:
        yield warn("redis connections", f"{detail}: beyond that nobody gets in", mend=_MEND_CROWD)


def _version(questions: Questions, settings: Settings) -> Check:
    server = questions.info("server", about="version")
    if not server:
        return ok("redis", f"answers at {settings.redis_address}")
    name = "Valkey" if "valkey_version" in server else "Redis"
    version = str(server.get("valkey_version") or server["redis_version"])
    where = f"{name} {version} at {settings.redis_address}"
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return warn("redis", f"{where} is older than 6.0", mend="upgrade it")
    return ok("redis", where)


def _ping(client: redis.Redis) -> None:
    """Raises `RedisError` unless Redis answers. One that cannot write to its disk refuses even a PING, from 7.0 on."""
    try:
        client.ping()
    except redis.ResponseError as error:
        if not str(error).startswith("MISCONF"):
            raise


def _writes(client: redis.Redis, settings: Settings) -> Check:
    """Whether it keeps what it is told now: a lapsing key of the doctor's own is written and read back."""
    content, where = secrets.token_hex(8), f"Redis at {settings.redis_address}"
    key = f"farm:probe:doctor:{content}"
    try:
        client.set(key, content, px=_PROBE_MS)
        if client.get(key) != content:
            return fail("redis writes", f"{where} does not give back what was written", mend="is a proxy in between?")
        client.delete(key)
    except redis.exceptions.ReadOnlyError:
        mend = "name the primary in FARM_REDIS_URL, or promote this one: redis-cli REPLICAOF NO ONE"
        return fail("redis writes", f"{where} is {_role(client)}: it takes no writes", mend=mend)
    except redis.RedisError as error:
        if denied := lack(error):
            return _without_a_right(denied, where)
        mend = "see its log: a full disk and a full memory are the usual causes"
        return fail("redis writes", f"{where} takes no writes: {error}", mend=mend)
    return ok("redis writes", "what is written is read back")


def _without_a_right(denied: Lack, where: str) -> Check:
    """Some users are only to read; but nobody can do anything without the farm's keys."""
    if denied.right == KEYS:
        return fail("redis writes", f"{where} denies this user {KEYS}", mend=denied.mend)
    mend = f"nothing, if this user is only to read; else {denied.mend}"
    return warn("redis writes", f"not checked: this user lacks {denied.right}", mend=mend)


def _role(client: redis.Redis) -> str:
    told = Questions(client).info("replication")
    return f"a replica of {told.get('master_host', '?')}:{told.get('master_port', '?')}" if told else "a replica"


def _survival(questions: Questions) -> Iterator[Check]:
    """With the default user off, Redis 7 and 8 drop what scripts wrote when they load their append-only file.

    Where INFO, CONFIG and ACL are forbidden, nothing is said.
    """
    server = questions.info("server")
    version = str(server.get("redis_version", ""))
    if "valkey_version" in server or not version.startswith(("7.", "8.")) or questions.setting("appendonly") != "yes":
        return
    if "off" in questions.user("default").get("flags", ()):
        mend = (
            "give the default user a strong password instead: ACL SETUSER default on resetpass '>PASSWORD' '~*' '+@all'"
        )
        detail = f"Redis {version} with 'user default off' forgets most of the ledger when it restarts"
        yield warn("redis default user", detail, mend=mend)


def _setting(questions: Questions, name: str, wanted: str, otherwise: str) -> Iterator[Check]:
    found = questions.setting(name, about=name)
    if found == wanted:
        yield ok(f"redis {name}", wanted)
    elif found is not None:
        mend = f"set '{name} {wanted}' in redis.conf, or: redis-cli CONFIG SET {name} {wanted}"
        yield warn(f"redis {name}", f"{found}: {otherwise}", mend=mend)


def _access(questions: Questions, settings: Settings) -> Check:
    """Who gets in: tried as a stranger, without the password, and read from its own settings where it gives them."""
    parts = urlsplit(settings.redis_url)
    ours_alone = _is_loopback(parts.hostname or "localhost")
    bind, protected = questions.setting("bind"), questions.setting("protected-mode")
    beyond = bind is not None and not all(map(_is_loopback, _addresses(bind)))
    if not _lets_in(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()):
        if ours_alone and beyond and parts.scheme == "redis":
            mend = "set 'bind 127.0.0.1' in redis.conf, or let other machines reach it by TLS only (rediss://)"
            return warn("redis access", "asks for a password, but other machines reach it in the clear", mend=mend)
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


def _addresses(bind: str) -> list[str]:
    """The addresses of a `bind`; without any, Redis listens on every interface. A `-` means: if there is one."""
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

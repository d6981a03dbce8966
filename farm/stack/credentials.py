"""The generated passwords and ports of a local farm: made once, kept across restarts.

The ports of Redis and S3 are kept as well, so that a presigned link or a notebook's connection outlives `farm down`
and `farm up`; one that somebody else took meanwhile is replaced. Ports by which SeaweedFS's parts call one another are
drawn anew at each start: it names sockets in /tmp after them, and nobody must know the next farm's names before it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from farm.errors import StackError
from farm.stack.layout import write_json

# Below the range from which the kernel takes the ports of outgoing connections (32768 on Linux, 49152 on macOS):
# one of those could take a port between our look and the server's bind.
_PORTS = range(22_000, 30_000)
# SeaweedFS's maintenance worker looks for the admin server's gRPC at this distance, wherever it was put.
_ADMIN_PORTS = range(20_000, 22_000)
_ADMIN_GRPC = 10_000
_TRIES = 200
_KEPT = ("redis", "s3", "master", "volume", "filer")
_DRAWN = ("s3_grpc", "master_grpc", "volume_grpc", "filer_grpc")
_SECRETS = ("redis_password", "s3_access_key", "s3_secret_key", "internal_key")
# They are written into the servers' configurations, where a space or the end of a line would begin something else.
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,128}")
# The place is SeaweedFS's choice, not ours.
_SOCKETS = tuple(f"/tmp/seaweedfs-{part}-grpc-{{}}.sock" for part in ("master", "volume", "filer", "s3", "admin"))  # noqa: S108


@dataclass(frozen=True)
class Credentials:
    """The secrets and ports of one farm's servers. `internal_key` signs what SeaweedFS's parts say to each other."""

    redis_password: str = field(repr=False)
    s3_access_key: str = field(repr=False)
    s3_secret_key: str = field(repr=False)
    internal_key: str = field(repr=False)
    ports: dict[str, int]


def load(path: Path) -> Credentials:
    """The credentials kept in `path`, or new ones, with ports that are free now; kept for the next time.

    Raises `StackError` when the file is damaged or no port is free.
    """
    found = kept(path) or Credentials(
        redis_password=secrets.token_urlsafe(24),
        s3_access_key=secrets.token_hex(10).upper(),
        s3_secret_key=secrets.token_urlsafe(30),
        internal_key=secrets.token_urlsafe(30),
        ports={},
    )
    credentials = replace(found, ports=_free_ports(found.ports))
    write_json(path, asdict(credentials))
    return credentials


def kept(path: Path) -> Credentials | None:
    """The credentials as they were last written to `path`, or None. Raises `StackError` when the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"it cannot be read ({type(error).__name__})") from None
    if not isinstance(found, dict) or found.keys() != {*_SECRETS, "ports"}:
        raise _damaged(path, f"it should hold {', '.join(_SECRETS)} and ports, and nothing else")
    for name in _SECRETS:
        if not isinstance(found[name], str) or not _SECRET.fullmatch(found[name]):
            raise _damaged(path, f"{name} is not 16 to 128 letters, digits, '-' and '_'")  # never quoted
    if not isinstance(found["ports"], dict) or not all(map(_can_be_port, found["ports"].values())):
        raise _damaged(path, "a port is not a number from 1024 to 65535")
    return Credentials(**found)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1 now, and on SeaweedFS's sockets that are named after it.

    What others have put in the place of such a socket would be spoken to, and cannot be removed.
    """
    with socket.socket() as probe:
        # As the servers do: a port is not taken because an old connection to it lingers in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return not any(map(is_anothers, sockets(port)))


def sockets(port: int) -> Iterator[Path]:
    """The sockets that SeaweedFS may name after a port."""
    return (Path(name.format(port)) for name in _SOCKETS)


def is_anothers(path: Path) -> bool:
    """Whether something in a folder that all users share belongs to another user."""
    try:
        return path.lstat().st_uid != os.geteuid()
    except FileNotFoundError:
        return False


def _can_be_port(found: Any) -> bool:
    return type(found) is int and 1024 <= found <= 65535


def _damaged(path: Path, what: str) -> StackError:
    return StackError(f"{path} is damaged: {what}", hint="remove it; the farm's data stays, and it gets new passwords")


def _free_ports(known: dict[str, int]) -> dict[str, int]:
    ports: dict[str, int] = {}
    for name in _KEPT:
        port = known.get(name)
        fits = port is not None and port not in ports.values() and is_free(port)
        ports[name] = port if port is not None and fits else _draw(_PORTS, ports.values())
    for name in _DRAWN:
        ports[name] = _draw(_PORTS, ports.values())
    ports["admin"] = _draw(_ADMIN_PORTS, ports.values(), _serves_admin)
    ports["admin_grpc"] = ports["admin"] + _ADMIN_GRPC
    return ports


def _serves_admin(port: int) -> bool:
    return is_free(port) and is_free(port + _ADMIN_GRPC)


def _draw(span: range, taken: Collection[int], fits: Callable[[int], bool] | None = None) -> int:
    for _ in range(_TRIES):
        port = secrets.choice(span)
        if port not in taken and (fits or is_free)(port):
            return port
    raise StackError(f"no free port found between {span.start} and {span.stop}", hint="is something using them all up?")

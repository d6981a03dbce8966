"""The generated passwords and ports of a local farm: made once, kept across restarts.

Ports are kept as well, so that a presigned link or a notebook's connection outlives `farm down` and `farm up`;
one that somebody else took meanwhile is replaced.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from farm.errors import StackError
from farm.stack.layout import write_json

# Below the range from which the kernel takes the ports of outgoing connections (32768 on Linux, 49152 on macOS):
# one of those could take a port between our look and the server's bind.
_PORTS = range(22_000, 30_000)
# SeaweedFS's maintenance worker looks for the admin server's gRPC at this distance, wherever it was put.
_ADMIN_PORTS = range(20_000, 22_000)
_ADMIN_GRPC = 10_000
_TRIES = 200
NAMES = ("redis", *(f"{part}{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", "_grpc")))


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
    kept = _read(path)
    if kept is None:
        kept = Credentials(
            redis_password=secrets.token_urlsafe(24),
            s3_access_key=secrets.token_hex(10).upper(),
            s3_secret_key=secrets.token_urlsafe(30),
            internal_key=secrets.token_urlsafe(30),
            ports={},
        )
    credentials = replace(kept, ports=_free_ports(kept.ports))
    if credentials != _read(path):
        write_json(path, asdict(credentials))
    return credentials


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As the servers do: a port is not taken because an old connection to it lingers in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _read(path: Path) -> Credentials | None:
    try:
        return Credentials(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StackError(
            f"{path} is damaged: {error}", hint="remove it; the farm's data stays, its passwords are made anew"
        ) from error


def _free_ports(kept: dict[str, int]) -> dict[str, int]:
    ports: dict[str, int] = {}
    for name in NAMES:
        port = kept.get(name)
        ports[name] = port if port is not None and is_free(port) else _draw(_PORTS, ports.values())
    admin = kept.get("admin")
    ports["admin"] = admin if admin is not None and _serves_admin(admin) else _draw(_ADMIN_PORTS, (), _serves_admin)
    ports["admin_grpc"] = ports["admin"] + _ADMIN_GRPC
    return ports


def _serves_admin(port: int) -> bool:
    return is_free(port) and is_free(port + _ADMIN_GRPC)


def _draw(span: range, taken: Collection[int], fits: Callable[[int], bool] | None = None) -> int:
    for _ in range(_TRIES):
        port = secrets.choice(span)
        if port not in taken and (fits or is_free)(port):
            return port
    raise StackError(f"no free port found between {span.start} and {span.stop}", hint="is something eating them?")

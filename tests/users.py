"""Users of Redis with fewer rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from farm.settings import Settings


def as_user(where: Settings, name: str) -> Settings:
    """The same servers, with the name of a user of Redis whose password is PASSWORD."""
    parts = urlsplit(where.redis_url)
    host = parts.netloc.rpartition("@")[2]
    return replace(where, redis_url=parts._replace(netloc=f"{name}:PASSWORD@{host}").geturl())


@contextmanager
def lesser(where: Settings, server: Any, *rights: str) -> Iterator[Settings]:
    """The settings of a user `lesser` who has all that is not dangerous, as changed by `rights`, during the block."""
    server.execute_command("ACL", "SETUSER", "lesser", "reset", "on", ">PASSWORD", "+@all", "-@dangerous", *rights)
    server.acl_log_reset()
    try:
        yield as_user(where, "lesser")
    finally:
        server.acl_deluser("lesser")

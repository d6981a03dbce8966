"""Tokens with which programs come in: kept hashed, in a file of the farm's home that its user alone can read.

In a file, and not in the ledger: whoever can write to Redis would make tokens, whoever can read it would see their
hashes, and a Redis that is away or has lost its data would shut everybody out. A token is 256 random bits, so that one
SHA-256 of it is as good as a slow hash, which a password would need.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from farm.errors import HomeRefused, InvalidInput
from farm.host import homes
from farm.host.private import write_private

Role = Literal["view", "submit", "operate"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may: look; submit, cancel, prioritise, retry; cancel everything, add and remove
models and LoRAs."""

MOST = 1_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BEGINNING = "farm_"
_FILE = "web-tokens.json"


@dataclass(frozen=True)
class Token:
    """What is kept of a token: whose it is, what it may do, its SHA-256, and when it was made (UTC, ISO 8601)."""

    name: str
    role: Role
    sha256: str
    made: str


_MAKE_ROOM = "what is in it stays: make room on its disk, or make it a file that you can read and write"


class Tokens:
    """The tokens of a home. A change by another process counts from the next look on.

    Methods raise `HomeRefused` where the file cannot be used, or others can read it.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / _FILE
        self._seen: tuple[int, int, int] | None = None
        self._known: tuple[Token, ...] = ()

    def add(self, name: str, role: Role) -> str:
        """Make a token, and return it: it is told this once. Raises `InvalidInput` for a name that is taken or odd."""
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r:.80} cannot name a token",
                field="NAME",
                hint="use up to 64 letters, digits, . _ - and start with a letter or digit",
            )
        homes.prepare(self._home)
        secret = _BEGINNING + secrets.token_urlsafe(32)
        with self._alone():
            known = self.all()
            if any(token.name == name for token in known):
                raise InvalidInput(f"there is a token {name!r} already", field="NAME", hint=f"farm token remove {name}")
            if len(known) >= MOST:
                raise InvalidInput(f"there are {MOST:,} tokens, and no more can be", hint="remove some of them")
            made = datetime.now(UTC).isoformat(timespec="seconds")
            self._write((*known, Token(name, role, _sha256(secret), made)))
        return secret

    def remove(self, name: str) -> None:
        """Remove a token; what came in with it is shut out. Raises `InvalidInput` if there is none of this name."""
        homes.check(self._home)
        if not any(token.name == name for token in self.all()):
            raise InvalidInput(f"there is no token {name!r:.80}", field="NAME", hint="'farm token list' shows them")
        with self._alone():
            self._write([token for token in self.all() if token.name != name])

    def all(self) -> Sequence[Token]:
        """The tokens, in the order in which they were made."""
        try:
            about = self._path.stat()
        except FileNotFoundError:
            self._seen, self._known = None, ()
            return ()
        except OSError as error:
            raise self._unusable(error.strerror or "unknown", hint=_MAKE_ROOM) from error
        stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
        if stamp != self._seen:
            if about.st_mode & 0o077:
                path = shlex.quote(str(self._path))
                raise HomeRefused(f"other users can read {self._path}", hint=f"chmod 600 {path}")
            self._known, self._seen = self._read(), stamp
        return self._known

    def owner(self, secret: str) -> Token | None:
        """The token that `secret` is. Takes as long whichever it is, and whether it is one."""
        asked, found = _sha256(secret), None
        for token in self.all():
            if hmac.compare_digest(token.sha256, asked):
                found = token
        return found

    def _read(self) -> tuple[Token, ...]:
        try:
            told = json.loads(self._path.read_text(encoding="utf-8"))
            tokens = tuple(Token(**fields) for fields in told["tokens"])
            if not all(token.role in ROLES and len(token.sha256) == 64 for token in tokens):
                raise ValueError("a token has no role or no hash")
        except OSError as error:
            raise self._unusable(error.strerror or "unknown", hint=_MAKE_ROOM) from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._unusable(
                f"it is damaged ({type(error).__name__})", hint="remove it, and make the tokens anew"
            ) from None
        return tokens

    def _write(self, tokens: Sequence[Token]) -> None:
        try:
            write_private(self._path, json.dumps({"tokens": [asdict(token) for token in tokens]}, indent=2) + "\n")
        except OSError as error:
            raise self._unusable(error.strerror or "unknown", hint=_MAKE_ROOM) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time changes the file."""
        try:
            descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error.strerror or "unknown", hint=_MAKE_ROOM) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _unusable(self, reason: str, *, hint: str) -> HomeRefused:
        return HomeRefused(f"{self._path} cannot be used: {reason}", hint=hint)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()

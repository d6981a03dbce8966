"""Sessions of browsers: a one-time code from the terminal becomes a cookie, as notebooks do it.

They live in this process alone, and end with it. Only hashes are kept of what a cookie holds.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from farm.web.tokens import Role

SECONDS = 12 * 3600
MOST = 1_000


@dataclass(frozen=True)
class Session:
    """Who came in by a cookie; what it writes needs `csrf` too. `token` is the hash of the token that it began with."""

    name: str
    role: Role
    token: str | None
    ends: float
    csrf: str = field(repr=False)


class Sessions:
    """The open sessions, and the code that opens one. `clock` gives seconds.

    Where `renewed` is given, it is told another code as soon as one has been used.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, renewed: Callable[[str], None] | None = None
    ) -> None:
        self._clock = clock
        self._renewed = renewed
        self._open: dict[str, Session] = {}
        self.code: str | None = secrets.token_urlsafe(24)
        """Lets one browser in, with all rights; None once it has, and there is no other."""

    def enter(self, code: str) -> str | None:
        """The cookie for whoever brings the code, which is of no use from then on; None for another."""
        if self.code is None or not hmac.compare_digest(self.code.encode(), code.encode("utf-8", "surrogateescape")):
            return None
        self.code = None
        if self._renewed is not None:
            self.code = secrets.token_urlsafe(24)
            self._renewed(self.code)
        return self.begin("browser", "operate", token=None)

    def begin(self, name: str, role: Role, *, token: str | None) -> str:
        """Open a session, and return its cookie. The oldest one ends where there are too many."""
        now = self._clock()
        self._open = {key: session for key, session in self._open.items() if session.ends > now}
        while len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        cookie = secrets.token_urlsafe(32)
        self._open[_key(cookie)] = Session(name, role, token, now + SECONDS, secrets.token_urlsafe(24))
        return cookie

    def of(self, cookie: str) -> Session | None:
        """The session of a cookie, unless it has ended."""
        session = self._open.get(_key(cookie))
        return session if session and session.ends > self._clock() else None

    def end(self, session: Session) -> None:
        """Close a session."""
        self._open = {key: other for key, other in self._open.items() if other is not session}

    def is_open(self, session: Session) -> bool:
        """Whether a session has not ended."""
        return session.ends > self._clock() and any(other is session for other in self._open.values())


def _key(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).hexdigest()

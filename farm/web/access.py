"""Who asks: by a token, as bearer or as the password of basic authentication, or by the cookie of a session."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from farm.errors import HomeRefused
from farm.web.problems import Refused
from farm.web.sessions import SECONDS, Session, Sessions
from farm.web.tokens import ROLES, Role, Tokens

CSRF_HEADER = "X-CSRF-Token"
_READING = ("GET", "HEAD", "OPTIONS")
_NOTHING = ("basic", "bearer")
"""What programs send that were given no token: the name of a scheme and nothing more, or an empty header."""


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may do."""

    name: str
    role: Role
    token: str | None = None
    """The SHA-256 of the token that they came in with, or began their session with."""
    session: Session | None = None

    def may(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


class Access:
    """Tells callers. With `open_to_all` whoever reaches the site may do everything.

    `port` is the site's: cookies know no ports, so it is in the name of ours.
    """

    def __init__(self, tokens: Tokens, sessions: Sessions, *, open_to_all: bool = False, port: int = 0) -> None:
        self.tokens, self.sessions, self.open_to_all = tokens, sessions, open_to_all
        self._cookie = f"farm_session_{port}"

    def caller(self, headers: Headers, *, method: str) -> Caller | None:
        """Who asks; None for somebody unknown. Raises `Refused` for a wrong token, or a write without its CSRF token.

        Raises `HomeRefused` where the tokens cannot be read.
        """
        if (given := headers.get("authorization", "").strip()) and given.lower() not in _NOTHING:
            return self._by_token(given)
        if session := self._session(headers):
            if method not in _READING and not _brings(headers, session.csrf):
                raise Refused(
                    403,
                    "csrf-token-missing",
                    f"a browser's request that changes something needs the session's token in {CSRF_HEADER}",
                    hint="GET /api/v1/session has it",
                )
            return Caller(session.name, session.role, session.token, session)
        return Caller("anyone", "operate") if self.open_to_all else None

    def still(self, caller: Caller) -> bool:
        """Whether a caller would still be let in as the same: their token and their session are there."""
        if caller.session and not self.sessions.is_open(caller.session):
            return False
        try:
            return caller.token is None or self._is_one(caller.token)
        except HomeRefused:
            return False

    def cookie(self, value: str, *, secure: bool) -> str:
        """The header that gives a browser a session's cookie; an empty value takes it away."""
        age = SECONDS if value else 0
        parts = [f"{self._cookie}={value}", "Path=/", f"Max-Age={age}", "HttpOnly", "SameSite=Strict"]
        return "; ".join([*parts, "Secure"] if secure else parts)

    def _by_token(self, given: str) -> Caller:
        scheme, _, value = given.partition(" ")
        secret = _password(value) if scheme.lower() == "basic" else value if scheme.lower() == "bearer" else None
        token = self.tokens.owner(secret.strip()) if secret else None
        if token is None:
            raise unknown("the token is not one of this site's")
        return Caller(token.name, token.role, token.sha256)

    def _session(self, headers: Headers) -> Session | None:
        for header in headers.getlist("cookie"):
            value = cookie_parser(header).get(self._cookie)
            session = self.sessions.of(value) if value else None
            if session and (session.token is None or self._is_one(session.token)):
                return session
        return None

    def _is_one(self, sha256: str) -> bool:
        return any(token.sha256 == sha256 for token in self.tokens.all())


def unknown(detail: str) -> Refused:
    """What somebody is told who is not known. Never asks for a password: a browser would send that with everything."""
    hint = (
        "send 'Authorization: Bearer TOKEN' ('farm token add' makes one), or open the address that 'farm up' told, "
        "or 'farm web'"
    )
    return Refused(401, "not-signed-in", detail, hint=hint, headers={"WWW-Authenticate": 'Bearer realm="farm"'})


def _brings(headers: Headers, csrf: str) -> bool:
    given = headers.get(CSRF_HEADER, "")
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), csrf.encode())


def _password(value: str) -> str | None:
    """The password of basic authentication; whatever user it names."""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return None

"""The names by which the site is called: what a `Host` and an `Origin` may say.

A page of another site can make a browser ask this machine's servers, and a name of its own can be led here (DNS
rebinding). The browser then says whose page it is, and by which name it came; neither is ours.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from farm.web.problems import Refused

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True)
class Names:
    """Names besides this machine's own. Unless it is `loopback_only`, every numeric address is one too.

    A number cannot be led elsewhere: a page that was loaded from it is our own.
    """

    others: frozenset[str] = frozenset()
    loopback_only: bool = True

    def check(self, headers: Headers, *, method: str, scheme: str, shown_elsewhere: bool = False) -> None:
        """Raises `Refused` for a request that came by another name, or from a page of another site, unless one may
        show what is asked for."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise Refused(
                421,
                "host-not-ours",
                f"this site is not called {', '.join(hosts)!r:.100}",
                hint="'farm web --name NAME' gives it a name, besides this machine's own",
            )
        if shown_elsewhere and method == "GET":
            return
        for origin in headers.getlist("origin"):
            if _origin(origin) != _origin(f"{scheme}://{hosts[0]}"):
                raise Refused(403, "foreign-origin", f"a page of {origin!r:.100} may not ask this site")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_a_link(headers, method):
            raise Refused(403, "foreign-origin", "a page of another site may not ask this one")

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").rstrip(".").lower()
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name in self.others
        return address.is_loopback or not self.loopback_only


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine can connect to an address."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_a_link(headers: Headers, method: str) -> bool:
    """Whether a person followed a link: the answer is shown to them, and the page that had the link sees none of it."""
    return method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") in _WINDOW


_WINDOW = (None, "document")


def _origin(text: str) -> tuple[str, str, str] | None:
    scheme, _, rest = text.partition("://")
    match = _HOST.fullmatch(rest)
    if match is None or scheme not in _DEFAULT_PORTS:
        return None
    return scheme, match[1].lower(), match[2] or _DEFAULT_PORTS[scheme]

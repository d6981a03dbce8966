"""What a stranger would get at a door that only the parts of the S3 server may pass: asked at each start.

A server that cannot read its certificates, or is too old to know a setting, goes on without them and says so in its
log alone. So each door is knocked at as every user of this machine could.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

_SECONDS = 5.0
_QUESTION = b"GET / HTTP/1.0\r\n\r\n"


def lets_in(port: int, authority: Path) -> bool:
    """Whether what listens on the port talks to one without a certificate, or is not certified by our authority.

    Raises `OSError` while nothing listens.
    """
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        try:
            secure = context.wrap_socket(connection, server_hostname="127.0.0.1")
        except OSError:  # it speaks no TLS, or as somebody else
            return True
        with secure:
            try:
                # In TLS 1.3 a certificate is found to be missing after the client's side of the handshake.
                secure.sendall(_QUESTION)
                return secure.recv(1) != b""
            except TimeoutError:
                return True
            except OSError:
                return False

"""A gate in front of the S3 server that can misbehave as servers and networks do."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Mood = Literal["well", "unavailable", "full", "forbidden", "forgetful"]
"""Passes everything on; answers 503; refuses writes for want of space; refuses them for want of rights; or passes
writes on and drops the connection without an answer, each object's first time."""

_REFUSALS: dict[Mood, tuple[int, str]] = {
    "unavailable": (503, "ServiceUnavailable"),
    "full": (507, "XMinioStorageFull"),
    "forbidden": (403, "AccessDenied"),
}
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class Gate:
    """Listens on loopback; use it as the S3 endpoint of a worker. Close it in the end."""

    def __init__(self, behind: str) -> None:
        self.mood: Mood = "well"
        self.refused = 0
        self.dropped: set[str] = set()
        address = urlsplit(behind)
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                writes = self.command in ("PUT", "POST", "DELETE")
                if gate.mood in _REFUSALS and (writes or gate.mood == "unavailable"):
                    gate.refused += 1
                    return self.refuse(*_REFUSALS[gate.mood])
                connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
                try:
                    # As it came: the signature covers the Host header that the client sent.
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in _HOP_BY_HOP:
                            connection.putheader(name, value)
                    connection.endheaders(body)
                    answer = connection.getresponse()
                    data = answer.read()
                except OSError:
                    return self.refuse(502, "BadGateway")
                finally:
                    connection.close()
                if gate.mood == "forgetful" and self.command == "PUT" and self.path not in gate.dropped:
                    gate.dropped.add(self.path)
                    self.close_connection = True
                    return None
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in (*_HOP_BY_HOP, "content-length", "server", "date"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(data)
                return None

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

            def refuse(self, status: int, code: str) -> None:
                data = f"<Error><Code>{code}</Code><Message>by the gate</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that was killed in the middle of a request."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

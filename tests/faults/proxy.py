"""A connection that breaks when it is told to: what a client sees of a network that loses an answer."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Listens on a port of its own and passes everything on to `port`, both ways.

    `lose_answer_to(text)`: the next request that holds `text` arrives, and its answer is lost with the connection.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._losing: bytes | None = None
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def lose_answer_to(self, text: str) -> None:
        self._losing = text.encode()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            with contextlib.suppress(OSError):
                while data := client.recv(2**16):
                    losing = self._losing is not None and self._losing in data
                    if losing:
                        self._losing = None
                        client.shutdown(socket.SHUT_RDWR)  # before the request is sent on: no answer can slip through
                        self.lost += 1
                    server.sendall(data)
                    if losing:
                        server.settimeout(0.5)
                        with contextlib.suppress(TimeoutError):
                            while server.recv(2**16):  # it was done, and answered
                                pass
                        return

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(2**16):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

"""A connection that breaks when it is told to: what a client sees of a network that loses an answer."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Listens on a port of its own and passes everything on to `port`, both ways.

    `lose_answer_to(text)`: the next request that holds `text` arrives, and its answer is lost with the connection.
    With `stay_away`, so are all others from then on, until `come_back`.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._losing: bytes | None = None
        self._stays_away = False
        self._is_away = threading.Event()
        self._open: list[socket.socket] = []
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def lose_answer_to(self, text: str, *, stay_away: bool = False) -> None:
        self._losing, self._stays_away = text.encode(), stay_away

    def come_back(self) -> None:
        self._is_away.clear()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_away.is_set():
                    client.close()
                    continue
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            with contextlib.suppress(OSError):
                while data := client.recv(2**16):
                    losing = self._losing is not None and self._losing in data
                    if losing:
                        self._losing = None
                        self._cut(client)  # before the request is sent on: no answer can slip through
                    server.sendall(data)
                    if losing:
                        server.settimeout(0.5)
                        with contextlib.suppress(TimeoutError):
                            while server.recv(2**16):  # it was done, and answered
                                pass
                        return

    def _cut(self, client: socket.socket) -> None:
        if self._stays_away:
            self._is_away.set()
        for one in self._open if self._stays_away else (client,):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.lost += 1

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(2**16):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

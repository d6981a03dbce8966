"""Another user of this machine, without a password, who tries every door of a farm: run as a process by its tests.

Reads `{"uid", "doors": [[kind, address, port]], "requests": [[method, path]], "commands": [[word]], "certificate"}` as
JSON from its standard input, and writes what came back: `[[port or path, what was asked, answer]]`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

_PATIENCE = 2.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""How gRPC begins: HTTP/2's preface and empty settings. Whoever speaks it answers with its own settings."""


def heard(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(OSError):
        while len(answer) < 65_536 and (more := connection.recv(65_536)):
            answer += more
            if not answer.startswith(b"HTTP/1"):  # others keep the line open
                break
    return answer


def asked(connection: socket.socket, question: bytes) -> bytes:
    with contextlib.suppress(OSError):
        connection.sendall(question)
    return heard(connection)


def http(method: str, path: str) -> bytes:
    body = b"planted" if method in ("PUT", "POST") else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def redis(words: list[str]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


def main() -> None:
    task = json.load(sys.stdin)
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE
    plain.set_alpn_protocols(["h2", "http/1.1"])
    forged = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    forged.check_hostname, forged.verify_mode = False, ssl.CERT_NONE
    forged.load_cert_chain(task["certificate"])
    forged.set_alpn_protocols(["h2", "http/1.1"])
    contexts = {"TLS": plain, "TLS with a certificate of their own": forged}
    requests = {f"{method} {path}": http(method, path) for method, path in task["requests"]}
    commands = {" ".join(words): redis(words) for words in task["commands"]}
    os.setgroups([])
    os.setgid(task["uid"])
    os.setuid(task["uid"])

    def connected(kind: str, address: str, port: int) -> socket.socket:
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        where = address.replace("@", "\0", 1) if kind == "unix" else ("127.0.0.1", port)
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(_PATIENCE)
        connection.connect(where)
        return connection

    def tried(kind: str, address: str, port: int) -> Iterator[tuple[str, bytes]]:
        questions = {**requests, **commands, "gRPC": _PREFACE}
        for name, question in questions.items():
            with connected(kind, address, port) as connection:
                yield name, asked(connection, question)
        for how, context in contexts.items():
            with contextlib.suppress(OSError):  # no TLS is spoken there
                for name, question in (("GET /", http("GET", "/")), ("gRPC", _PREFACE)):
                    with connected(kind, address, port) as connection:
                        yield f"{name} by {how}", asked(context.wrap_socket(connection), question)

    def all_of(door: tuple[str, str, int]) -> list[tuple[str | int, str, str]]:
        kind, address, port = door
        where = address if kind == "unix" else port
        try:
            return [(where, name, answer.decode("latin-1")) for name, answer in tried(kind, address, port)]
        except (PermissionError, FileNotFoundError):
            return [(where, "open", "")]

    with ThreadPoolExecutor(8) as pool:  # each waits most of the time, for what is not answered
        json.dump([answer for answers in pool.map(all_of, task["doors"]) for answer in answers], sys.stdout)


if __name__ == "__main__":
    main()

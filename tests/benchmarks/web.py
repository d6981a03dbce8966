"""`farm web` on one core: statuses a second, a thousand open streams of events that all hear of one job while statuses
are asked for, and what a submission takes longer than the client's own.

`python -m tests.benchmarks.web [HOME]`: with servers of its own, or those of the local farm that runs in HOME, beside
what that renders. Prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvicorn

from farm import settings, stack
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.settings import Settings
from farm.web.access import Access
from farm.web.app import create
from farm.web.limits import Limits
from farm.web.server import Serving, bound, configuration
from farm.web.sessions import Sessions
from farm.web.tokens import Tokens

STREAMS = 1_000
STATUSES_A_SECOND = 200
SECONDS = 10.0
CONNECTIONS = 8
SUBMISSIONS = 100
_LINE, _END = "\r\n", "\r\n\r\n"


def main() -> None:
    """Measure, and print what was found."""
    with tempfile.TemporaryDirectory() as made:
        if len(sys.argv) > 1:
            os.environ["FARM_HOME"] = sys.argv[1]
            return print(json.dumps(_measured(settings.load(), Path(made)), indent=2))
        home = Path(made) / "home"
        where = stack.start_detached(home, workers=0)
        try:
            print(json.dumps(_measured(where, Path(made)), indent=2))
        finally:
            stack.stop(home)


def _measured(where: Settings, folder: Path) -> dict[str, Any]:
    """The server in a process of its own, on one core; those who ask on the others."""
    tokens = Tokens(folder / "tokens")
    token = tokens.add("bench", "operate")
    with bound("127.0.0.1", 0) as listening:
        listening.listen(2_048)
        port = listening.getsockname()[1]
        server = os.fork()
        if server == 0:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            site = create(FarmClient(where), Access(tokens, Sessions()), limits=Limits(requests=1e9, streams=10_000))
            uvicorn.Server(configuration(site.app, Serving())).run(sockets=[listening])
            os._exit(0)
        try:
            with FarmClient(where) as client:
                return asyncio.run(_asked(client, port, token, server)) | {"memory_MiB": _memory(server)}
        finally:
            os.kill(server, 15)
            os.waitpid(server, 0)


async def _asked(client: FarmClient, port: int, token: str, server: int) -> dict[str, Any]:
    job = client.submit([JobRequest(prompt="an otter", seed=1)]).jobs[0]
    head = f"HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n"
    status = f"GET /api/v1/jobs/{job} {head}".encode()
    until, before = time.monotonic() + SECONDS, core_seconds(server)
    counts = await asyncio.gather(*(_asks(port, status, until) for _ in range(CONNECTIONS)))
    taken = core_seconds(server) - before
    events = f"GET /api/v1/events?name={job} {head}".encode()
    submitting = await _submitting(client, port, head)
    async with AsyncExitStack() as opened:
        began = time.monotonic()
        readers = [await _opened(opened, port, events) for _ in range(STREAMS)]
        opening = time.monotonic() - began
        paced = await _paced(port, status)
        hearing = [asyncio.create_task(reader.readuntil(b'"state":"cancelled"')) for reader in readers]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        threading.Thread(target=client.cancel, args=([job],)).start()
        heard = sorted([await _time_of(task, began) for task in asyncio.as_completed(hearing)])
    return {
        "statuses_a_second": round(sum(counts) / SECONDS),
        "statuses_a_second_of_its_core": round(sum(counts) / taken),
        "streams": STREAMS,
        "opened_in_s": round(opening, 2),
        f"among_them_{STATUSES_A_SECOND}_statuses_a_second_ms": _spread(paced),
        "first_heard_after_s": round(heard[0], 3),
        "last_heard_after_s": round(heard[-1], 3),
        "submission_ms": {name: _spread(taken) for name, taken in submitting.items()},
    }


async def _submitting(client: FarmClient, port: int, head: str) -> dict[str, list[float]]:
    """The seconds of single submissions, by turns: the client's own, and through the API on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken: dict[str, list[float]] = {"client": [], "api": []}
    for seed in range(SUBMISSIONS):
        began = time.monotonic()
        client.submit([JobRequest(prompt="an otter", seed=seed)])
        taken["client"].append(time.monotonic() - began)
        body = json.dumps({"requests": [{"prompt": "an otter", "seed": seed}]})
        typed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        began = time.monotonic()
        writer.write(f"POST /api/v1/jobs {head.removesuffix(_END)}{_LINE}{typed}{body}".encode())
        await _answered(reader, b"HTTP/1.1 201")
        taken["api"].append(time.monotonic() - began)
    writer.close()
    return taken


async def _paced(port: int, request: bytes) -> list[float]:
    """The seconds that answers take from when they are due, at a steady rate on a few connections."""
    began, number = time.monotonic() + 0.1, int(SECONDS * STATUSES_A_SECOND)

    async def asks(first: int) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        taken = []
        for due in (began + n / STATUSES_A_SECOND for n in range(first, number, CONNECTIONS)):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            writer.write(request)
            await _answered(reader, b"HTTP/1.1 200")
            taken.append(time.monotonic() - due)
        writer.close()
        return taken

    return [one for some in await asyncio.gather(*(asks(n) for n in range(CONNECTIONS))) for one in some]


def _spread(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    shares = {"median": 0.5, "p95": 0.95, "p99": 0.99}
    return {name: round(1e3 * ordered[int(share * (len(ordered) - 1))], 1) for name, share in shares.items()}


async def _answered(reader: asyncio.StreamReader, status: bytes) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(status), head
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


async def _asks(port: int, request: bytes, until: float) -> int:
    """Ask again and again on one connection; how many answers came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while time.monotonic() < until:
        writer.write(request)
        await _answered(reader, b"HTTP/1.1 200")
        count += 1
    writer.close()
    return count


async def _opened(opened: AsyncExitStack, port: int, request: bytes) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    opened.callback(writer.close)
    writer.write(request)
    head = await reader.readuntil(b"event: status")
    assert head.startswith(b"HTTP/1.1 200"), head
    return reader


async def _time_of(task: Any, began: float) -> float:
    await task
    return time.monotonic() - began


def core_seconds(process: int) -> float:
    """What the process has had of its core: the machine may have others that want it."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(process: int) -> int:
    """What the process takes, in MiB."""
    told = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in told.splitlines() if line.startswith("VmHWM"))) // 1024


if __name__ == "__main__":
    main()

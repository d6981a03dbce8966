"""How soon the pages of `farm web` begin with 100,000 jobs in the ledger.

`python -m tests.benchmarks.site_pages [JOBS]`: with servers of its own. Prints JSON: for each page the milliseconds to
the first byte, those of the very first look, the median and the worst of the others; the milliseconds that the site has
of a core for one; and the page's size in bytes.
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from farm import keys
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.ledger.records import NewJob
from tests.benchmarks.farms import LocalFarm, local_farm
from tests.benchmarks.web import core_seconds
from tests.ledgers import a_worker

JOBS = 100_000
A_BATCH = 1_000
LOOKS = 30


def main() -> None:
    """Measure, and print what was found."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    with local_farm() as farm, FarmClient(farm.where) as client:
        last = _filled(client, number)
        client.ledger.announce(a_worker(images_per_minute=30.0, warm=("emoji",)))
        with _site(farm) as (port, process):
            _look(port, "/login")  # what is imported at the first page is imported
            pages = {
                "all": "/",
                "queued": "/?state=queued",
                "a batch": f"/?batch={last}",
                "a page on": _older(port),
                "a job": f"/jobs/{last}-0500",
            }
            found = {name: _measured(port, path, process) for name, path in pages.items()}
    print(json.dumps({"jobs": number, "pages": found}, indent=2))


def _filled(client: FarmClient, number: int) -> str:
    """Record so many jobs; a tenth waits, the others are cancelled. Returns the last batch."""
    [spec] = JobRequest(prompt="a watercolor painting of an otter", seed=1).specs(None, default_model="emoji")
    for first in range(0, number, A_BATCH):
        batch = keys.new_batch_id()
        jobs = [NewJob(keys.job_in_batch(batch, index), spec, 5, {"project": "otters"}) for index in range(A_BATCH)]
        client.ledger.create(batch, jobs)
        if first < number * 9 // 10:
            client.ledger.cancel_many([job.id for job in jobs])
    return batch


@contextmanager
def _site(farm: LocalFarm) -> Iterator[tuple[int, int]]:
    """A site of the farm: its port, and its process."""
    command = [sys.executable, "-m", "farm", "web", "--no-auth", "--port", "0"]
    with subprocess.Popen(
        command, env=farm.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as process:
        assert process.stdout
        address = re.search(r":(\d+)/", process.stdout.readline())
        assert address
        try:
            yield int(address[1]), process.pid
        finally:
            process.terminate()


def _measured(port: int, path: str, process: int) -> dict[str, Any]:
    looks = [_look(port, path)]
    before = core_seconds(process)
    looks += [_look(port, path) for _ in range(LOOKS)]
    core = 1000 * (core_seconds(process) - before) / LOOKS
    times = [1000 * seconds for seconds, _ in looks]
    told = {"first": times[0], "median": statistics.median(times[1:]), "worst": max(times[1:]), "of a core": core}
    return {name: round(value, 1) for name, value in told.items()} | {"bytes": len(looks[0][1])}


def _look(port: int, path: str) -> tuple[float, bytes]:
    """Seconds to the first byte of a page, and the page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    began = time.perf_counter()
    connection.request("GET", path, headers={"Accept": "text/html"})
    answer = connection.getresponse()
    seconds = time.perf_counter() - began
    page = answer.read()
    connection.close()
    assert answer.status == 200, page
    return seconds, page


def _older(port: int) -> str:
    found = re.search(rb'href="(/\?cursor=[^"]+)"', _look(port, "/")[1])
    assert found
    return found[1].decode()


if __name__ == "__main__":
    main()

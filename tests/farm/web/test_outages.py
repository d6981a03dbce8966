"""Redis and the bucket go away under a running site: clear answers meanwhile, and it comes back by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx2
import pytest

from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.settings import Settings
from tests.farm.rendering import render
from tests.farm.web.asgi import SECONDS, connected
from tests.farm.web.conftest import Opening
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.anyio


@pytest.fixture
def redis(servers: Settings) -> Iterator[Proxy]:
    proxy = Proxy(urlsplit(servers.redis_url).port or 0)
    yield proxy
    proxy.close()


@pytest.fixture
def s3(servers: Settings) -> Iterator[Proxy]:
    proxy = Proxy(urlsplit(servers.s3_endpoint or "").port or 0)
    yield proxy
    proxy.close()


@pytest.fixture
def shaky(servers: Settings, redis: Proxy, s3: Proxy, client: FarmClient) -> Iterator[FarmClient]:
    """A client of the same farm, whose connections can be cut."""
    parts = urlsplit(servers.redis_url)
    redis_url = servers.redis_url.replace(f":{parts.port}", f":{redis.port}")
    with FarmClient(replace(servers, redis_url=redis_url, s3_endpoint=f"http://127.0.0.1:{s3.port}")) as made:
        yield made


async def asked(http: httpx2.AsyncClient, path: str, *, until: int) -> httpx2.Response:
    """Ask until the answer has this status."""
    async with asyncio.timeout(SECONDS):
        while (answer := await http.get(path)).status_code != until:
            await asyncio.sleep(0.05)
    return answer


async def test_redis_goes_away_and_comes_back_under_requests_and_streams(
    shaky: FarmClient, client: FarmClient, redis: Proxy, opened: Opening
) -> None:
    [job] = client.submit([JobRequest(prompt="an otter", seed=1)]).jobs
    async with opened(shaky) as web, web.having("view") as http:
        headers = {"authorization": http.headers["authorization"]}
        async with connected(web.site.app, "/api/v1/events", headers=headers, query=f"name={job}") as stream:
            assert await stream.status() == 200
            assert json.loads((await stream.event())["data"])["state"] == "queued"
            redis.lose_answer_to("", stay_away=True)  # the next request, whatever it is

            problem = (await asked(http, f"/api/v1/jobs/{job}", until=503)).json()
            told = await stream.event()

            assert problem["type"] == "urn:render-farm:ledger-unavailable"
            assert "cannot be used" in problem["detail"] and "farm doctor" in problem["hint"]
            assert (told["event"], json.loads(told["data"])["type"]) == ("problem", problem["type"])
            render(client, job)
            redis.come_back()

            assert (await asked(http, f"/api/v1/jobs/{job}", until=200)).json()["state"] == "done"
            assert (await stream.states(until="done"))[-1] == "done", "what happened meanwhile is told"


async def test_the_bucket_goes_away_and_comes_back_and_what_needs_only_redis_goes_on(
    shaky: FarmClient, client: FarmClient, s3: Proxy, opened: Opening
) -> None:
    [job] = client.submit([JobRequest(prompt="an otter", seed=1)]).jobs
    made = render(client, job)
    path = f"/api/v1/jobs/{job}/objects/image.png"
    async with opened(shaky) as web, web.having("submit") as http:
        assert (await http.get(path)).content == made.picture
        s3.lose_answer_to("", stay_away=True)

        answer, status, submitted = await asyncio.gather(
            http.get(path, timeout=SECONDS),
            http.get(f"/api/v1/jobs/{job}"),
            http.post("/api/v1/jobs", json={"requests": [{"prompt": "x"}]}, timeout=SECONDS),
        )

        for refused in (answer, submitted):
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:render-farm:storage-error")
            assert refused.headers["Retry-After"] == "5" and "s3://" in refused.json()["detail"]
        assert status.status_code == 200
        s3.come_back()
        assert (await http.get(path)).content == made.picture
        assert client.ledger.counts()["queued"] == 0


async def test_the_answer_that_redis_gave_is_lost_and_the_key_finds_the_submission(
    shaky: FarmClient, client: FarmClient, redis: Proxy, opened: Opening
) -> None:
    headers = {"Idempotency-Key": "mine"}
    body = {"requests": [{"prompt": "an otter", "count": 3}]}
    async with opened(shaky) as web, web.having("submit") as http:
        redis.lose_answer_to("create", stay_away=True)
        lost = await http.post("/api/v1/jobs", json=body, headers=headers, timeout=SECONDS)
        assert (lost.status_code, lost.json()["type"]) == (503, "urn:render-farm:ledger-unavailable")
        redis.come_back()

        again = await http.post("/api/v1/jobs", json=body, headers=headers, timeout=SECONDS)

        assert again.status_code == 201, again.text
        assert sorted(again.json()["jobs"]) == sorted(client.ledger.newest())
        assert client.ledger.counts()["queued"] == 3
        seeds = [spec["seed"] for spec in again.json()["specs"]]
        assert [client.ledger.spec(job).seed for job in again.json()["jobs"]] == seeds

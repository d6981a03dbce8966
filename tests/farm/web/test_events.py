"""Events over HTTP: what followers are told, how they come back, and what becomes of jobs that only they waited for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.web.limits import Limits
from tests.farm.rendering import render
from tests.farm.web.asgi import bearer, connected, happens
from tests.farm.web.conftest import Opening, Web

pytestmark = pytest.mark.anyio


def submitted(client: FarmClient, count: int = 1) -> list[str]:
    return [*client.submit([JobRequest.parse({"prompt": "an otter", "seed": 1, "count": count})]).jobs]


async def test_jobs_are_followed_from_what_they_are_until_they_are_over(web: Web, client: FarmClient) -> None:
    jobs = submitted(client, 2)
    async with connected(web.site.app, "/api/v1/events", headers=bearer(web), query=f"name={jobs[0]}") as stream:
        assert await stream.status() == 200
        first = await stream.event()
        assert (first["event"], json.loads(first["data"])["state"]) == ("status", "queued")

        render(client, jobs[1])
        render(client, jobs[0])

        told = [json.loads((await stream.event())["data"])]
        while told[-1]["state"] != "done":
            told.append(json.loads((await stream.event())["data"]))
        assert {status["id"] for status in told} == {jobs[0]}, "of the others nothing"
        assert told[-1] == client.ledger.get(jobs[0]).model_dump(mode="json")
        assert (await stream.event())["event"] == "end"
        assert await stream.event() == {}


async def test_who_comes_back_is_told_what_changed_meanwhile_and_nothing_else(web: Web, client: FarmClient) -> None:
    jobs = submitted(client, 3)
    batch, headers = jobs[0].partition("-")[0], bearer(web)
    async with connected(web.site.app, "/api/v1/events", headers=headers, query=f"name={batch}") as stream:
        await stream.status()
        seen = [await stream.event() for _ in jobs]
    assert [json.loads(event["data"])["id"] for event in seen] == jobs
    assert ["id" in event for event in seen] == [False, False, True], "who saw a part of them is told all of them again"
    render(client, jobs[1])

    again = {**headers, "last-event-id": seen[-1]["id"]}
    async with connected(web.site.app, "/api/v1/events", headers=again, query=f"name={batch}") as stream:
        await stream.status()
        told = await stream.event()
        assert json.loads(told["data"])["id"] == jobs[1] and "id" in told
        client.cancel([jobs[0]])
        assert json.loads((await stream.event())["data"])["id"] == jobs[0]


@pytest.mark.parametrize("cursor", ["1-0", "99999999999999-0", "0-0"])
async def test_who_was_away_too_long_is_told_everything(web: Web, client: FarmClient, cursor: str) -> None:
    [job] = submitted(client)
    headers = {**bearer(web), "last-event-id": cursor}
    async with connected(web.site.app, "/api/v1/events", headers=headers, query=f"name={job}") as stream:
        await stream.status()
        assert json.loads((await stream.event())["data"])["id"] == job
    async with connected(web.site.app, "/api/v1/events", headers=headers) as stream:
        await stream.status()
        assert (await stream.event())["event"] == "reset", "the whole farm's list is to be read again"


async def test_a_forged_place_in_the_stream_is_refused(web: Web) -> None:
    async with web.having("view") as http:
        for forged in ("$", "1-1-1", "> ", "1" * 30, "9" * 16 + "-0"):
            answer = await http.get("/api/v1/events", headers={"Last-Event-ID": forged})
            assert (answer.status_code, answer.json()["field"]) == (422, "Last-Event-ID")


async def test_the_whole_farm_is_followed_as_it_happens(web: Web, client: FarmClient) -> None:
    async with connected(web.site.app, "/api/v1/events", headers=bearer(web)) as stream:
        assert await stream.status() == 200
        jobs = submitted(client, 2)
        render(client, jobs[0])
        assert (await stream.states(until="done"))[-1] == "done"


async def test_streams_of_many_need_one_reader_and_no_thread_each(web: Web, client: FarmClient) -> None:
    import threading
    from contextlib import AsyncExitStack

    [job] = submitted(client)
    headers = bearer(web)
    async with AsyncExitStack() as stack:
        before = threading.active_count()
        opened = [
            await stack.enter_async_context(
                connected(web.site.app, "/api/v1/events", headers=headers, query=f"name={job}")
            )
            for _ in range(60)
        ]
        for stream in opened:
            await stream.status()
        assert threading.active_count() - before <= 9, "those of the pool, and one that reads"
        render(client, job)
        for stream in opened:
            assert (await stream.states(until="done"))[-1] == "done"


async def test_a_stream_ends_with_its_token(web: Web, client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.web.v1.events._SILENCE_SECONDS", 0.05)
    [job] = submitted(client)
    headers = {"authorization": f"Bearer {web.tokens.add('guest', 'view')}"}
    async with connected(web.site.app, "/api/v1/events", headers=headers, query=f"name={job}") as stream:
        await stream.status()
        await stream.event()
        web.tokens.remove("guest")
        web.tokens.add("guest", "view")
        assert await stream.event() == {}, "another token of its name is another"


async def test_a_stream_that_has_news_ends_with_its_token_too(web: Web, client: FarmClient) -> None:
    jobs = submitted(client, 2)
    headers = {"authorization": f"Bearer {web.tokens.add('guest', 'view')}"}
    async with connected(web.site.app, "/api/v1/events", headers=headers) as stream:
        await stream.status()
        client.cancel(jobs[:1])
        assert json.loads((await stream.event())["data"])["id"] == jobs[0]
        web.tokens.remove("guest")
        client.cancel(jobs[1:])
        assert await stream.event() == {}


async def test_what_is_forgotten_is_followed_no_more_and_nothing_is_left_of_it(web: Web, client: FarmClient) -> None:
    jobs = submitted(client, 2)
    batch = jobs[0].partition("-")[0]
    async with connected(web.site.app, "/api/v1/events", headers=bearer(web), query=f"name={batch}") as stream:
        await stream.status()
        for _ in jobs:
            await stream.event()
        client.cancel(jobs)
        assert [(await stream.event())["event"] for _ in jobs] == ["status"] * 2
        assert (await stream.event())["event"] == "end"
    hub = web.site.parts.hub
    assert not hub._followers and not hub._by_job
    follower = await hub.follow(submitted(client, 2))
    client.cancel([*follower.jobs])
    client.ledger.forget([*follower.jobs])
    hub.leave(follower)
    assert not hub._by_job


async def test_more_streams_than_are_allowed_are_refused_until_one_ends(client: FarmClient, opened: Opening) -> None:
    async with opened(client, limits=Limits(streams=1)) as web, web.having("view") as other:
        headers = bearer(web)
        async with connected(web.site.app, "/api/v1/events", headers=headers) as stream:
            assert await stream.status() == 200
            async with connected(web.site.app, "/api/v1/events", headers=headers) as second:
                assert await second.status() == 429
            with pytest.raises(TimeoutError):  # of another it is another's, and goes on
                await asyncio.wait_for(other.get("/api/v1/events"), 0.3)
        async with connected(web.site.app, "/api/v1/events", headers=headers) as third:
            assert await third.status() == 200


def request_of(**fields: Any) -> bytes:
    return json.dumps({"requests": [{"prompt": "an otter", "seed": 1, **fields}]}).encode()


JSON = {"content-type": "application/json"}


async def test_a_submission_that_is_waited_for_is_answered_when_its_jobs_are_over(web: Web, client: FarmClient) -> None:
    headers = bearer(web, "submit") | JSON
    path, query = "/api/v1/jobs", "wait=true"
    async with connected(web.site.app, path, method="POST", headers=headers, body=request_of(), query=query) as waiting:
        await happens(lambda: client.ledger.counts()["queued"], "it is queued")
        render(client, client.ledger.newest()[0])
        assert await waiting.status() == 200
        told = json.loads((await waiting.sent.get())["body"])
    assert [status["state"] for status in told["statuses"]] == ["done"]

    async with web.having("submit") as http:
        late = await http.post(path, content=request_of(), headers=JSON, params={"wait": True, "seconds": 0.05})
    assert (late.status_code, late.json()["statuses"][0]["state"]) == (202, "queued")
    assert client.ledger.counts()["queued"] == 1, "who has been answered has not gone away"


async def test_who_may_not_wait_has_submitted_nothing(client: FarmClient, opened: Opening) -> None:
    async with opened(client, limits=Limits(streams=0)) as web, web.having("submit") as http:
        refused = await http.post("/api/v1/jobs", content=request_of(), headers=JSON, params={"wait": True})
        assert (refused.status_code, client.ledger.counts()["queued"]) == (429, 0)
        assert (await http.post("/api/v1/jobs", content=request_of(), headers=JSON)).status_code == 201


async def test_who_goes_away_cancels_what_only_they_waited_for(web: Web, client: FarmClient) -> None:
    headers = bearer(web, "submit") | JSON
    post: dict[str, Any] = {"method": "POST", "headers": headers, "query": "wait=true"}
    async with connected(web.site.app, "/api/v1/jobs", body=request_of(count=2), **post):
        await happens(lambda: client.ledger.counts()["queued"] == 2, "they are queued")
        jobs = client.ledger.newest()
        async with connected(web.site.app, "/api/v1/events", headers=headers, query=f"name={jobs[0]}") as watching:
            await watching.status()
            await watching.event()
            async with connected(web.site.app, "/api/v1/jobs", body=request_of(), **post) as own:
                await happens(lambda: client.ledger.counts()["queued"] == 3, "it is queued too")
                own.gone.set()
                await happens(lambda: client.ledger.counts()["cancelled"] == 1, "it is cancelled")
    await happens(lambda: client.ledger.counts()["cancelled"] == 3, "nobody was left to wait for the others")


async def test_what_others_follow_or_a_key_names_is_kept(web: Web, client: FarmClient) -> None:
    headers = bearer(web, "submit") | JSON
    keyed = headers | {"idempotency-key": "k"}
    post: dict[str, Any] = {"method": "POST", "query": "wait=true", "body": request_of()}
    async with connected(web.site.app, "/api/v1/jobs", headers=keyed, **post):
        await happens(lambda: client.ledger.counts()["queued"] == 1, "it is queued")
    assert client.ledger.counts()["queued"] == 1, "it will be asked for again"
    async with connected(web.site.app, "/api/v1/jobs", headers=headers, **post) as own:
        await happens(lambda: client.ledger.counts()["queued"] == 2, "it is queued")
        job = client.ledger.newest(limit=1)[0]
        async with connected(web.site.app, "/api/v1/events", headers=headers, query=f"name={job}") as watching:
            await watching.status()
            await watching.event()
            own.gone.set()
            render(client, job)
            assert (await watching.states(until="done"))[-1] == "done"
    await asyncio.gather(*web.site.parts.tasks)
    assert client.ledger.counts()["cancelled"] == 0


async def test_a_site_that_ends_lets_everybody_go_and_cancels_nothing(client: FarmClient, opened: Opening) -> None:
    async with opened(client) as web:
        headers = bearer(web, "submit") | JSON
        async with (
            connected(web.site.app, "/api/v1/events", headers=headers) as stream,
            connected(
                web.site.app, "/api/v1/jobs", method="POST", headers=headers, body=request_of(), query="wait=true"
            ) as waiting,
        ):
            assert await stream.status() == 200
            await happens(lambda: client.ledger.counts()["queued"], "it is queued")
            await happens(lambda: len(web.site.parts.hub._followers) == 2, "it is waited for")
            web.site.parts.hub.close()
            assert await waiting.status() == 202
            assert json.loads((await waiting.sent.get())["body"])["jobs"] == client.ledger.newest()
            while await stream.event():
                pass
    assert client.ledger.counts()["queued"] == 1

"""The gallery over HTTP: pages of pictures, thumbnails made once, and what is found where the ledger has forgotten."""

from __future__ import annotations

import io
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm import keys
from farm.bucket.results import ResultObject
from farm.client import FarmClient
from farm.client.forget import expire
from farm.jobs.request import JobRequest
from farm.web.access import Access
from farm.web.app import create
from farm.web.problems import Refused
from farm.web.sessions import Sessions
from farm.web.thumbnails import FOLDER, Thumbnails
from farm.web.tokens import Tokens
from tests.farm.rendering import render
from tests.farm.web.conftest import Opening, Web
from tests.farm.web.test_v1 import png

pytestmark = pytest.mark.anyio


@pytest.fixture
async def web(client: FarmClient, tmp_path: Path) -> AsyncIterator[Web]:
    """A site with an index, which a test keeps by hand."""
    tokens, sessions = Tokens(tmp_path / "home"), Sessions()
    site = create(client, Access(tokens, sessions), home=tmp_path / "home")
    yield Web(site, tokens, sessions)
    assert site.parts.index
    site.parts.index.feeder.close()
    site.parts.index.feeder._let_go()


def kept(web: Web) -> None:
    """Let the index's keeper do what there is to do."""
    assert web.site.parts.index
    feeder = web.site.parts.index.feeder
    feeder.turn(wait=0)
    while not feeder.is_ready:
        feeder.turn(wait=0)


async def test_pictures_are_found_also_when_the_ledger_knows_nothing_of_them(web: Web, client: FarmClient) -> None:
    async with web.having("view") as http:
        unready = await http.get("/api/v1/gallery")
        assert (unready.status_code, unready.json()["type"]) == (503, "urn:render-farm:index-not-ready")
        jobs = client.submit([JobRequest(prompt=f"an otter {n}", seed=n, labels={"a": "b"}) for n in range(3)]).jobs
        made = [render(client, job) for job in jobs]
        kept(web)
        asked: dict[str, Any] = {"q": f"batch:{keys.batch_of(jobs[0])}", "limit": 2}

        page = (await http.get("/api/v1/gallery", params=asked)).json()
        assert ([one["job"] for one in page["pictures"]], page["total"]) == ([jobs[2], jobs[1]], 3)
        assert page["pictures"][0]["labels"] == {"a": "b"} and page["making"] is None
        rest = (await http.get("/api/v1/gallery", params={**asked, "cursor": page["next"]})).json()
        assert ([one["job"] for one in rest["pictures"]], rest["next"]) == ([jobs[0]], None)

        client.ledger.redis.zadd("farm:state:done", dict.fromkeys(jobs, 1))
        assert list(expire(client.ledger, client.storage, older_than=60, objects=False))
        kept(web)
        assert (await http.get(f"/api/v1/jobs/{jobs[0]}")).status_code == 404
        assert (await http.get(f"/api/v1/jobs/{jobs[0]}/result")).json()["job"] == jobs[0]
        assert (await http.get(f"/api/v1/jobs/{jobs[0]}/objects/image.png")).content == made[0].picture
        assert (await http.get(f"/api/v1/jobs/{jobs[0]}/thumbnail")).status_code == 200
        for forged in ({"cursor": "x"}, {"cursor": "9" * 20}, {"q": "seed:x"}, {"skip": -1}, {"limit": 501}):
            assert (await http.get("/api/v1/gallery", params=forged)).status_code == 422, forged


async def test_a_thumbnail_is_made_once_and_small(web: Web, client: FarmClient, tmp_path: Path) -> None:
    [job, waiting] = client.submit([JobRequest(prompt="an otter", count=2)]).jobs
    made = render(client, job)
    async with web.having("view") as http:
        answer = await http.get(f"/api/v1/jobs/{job}/thumbnail")
        assert answer.headers["content-type"] == "image/webp" and "immutable" in answer.headers["cache-control"]
        assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
        again = await http.get(f"/api/v1/jobs/{job}/thumbnail", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        client.storage.delete(made.key("image.png"))
        assert (await http.get(f"/api/v1/jobs/{job}/thumbnail")).content == answer.content
        assert (await http.get(f"/api/v1/jobs/{waiting}/thumbnail")).status_code == 409
        assert (await http.get(f"/api/v1/jobs/{job}/init")).json()["detail"] == f"job {job} had no init picture"
    folder = tmp_path / "home" / FOLDER
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())} == {0o700, 0o600}


async def test_the_pictures_that_came_along_with_a_job_are_to_be_had(web: Web, client: FarmClient) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(file, "PNG")
    request = JobRequest(mode="img2img", prompt="an otter", init=png(), mask=file.getvalue(), seed=1)
    [job] = client.submit([request]).jobs
    render(client, job)
    async with web.having("view") as http:
        init, mask = [await http.get(f"/api/v1/jobs/{job}/{name}") for name in ("init", "mask")]
    assert (init.content, init.headers["content-type"]) == (png(), "image/png")
    assert Image.open(io.BytesIO(mask.content)).size == (64, 64)


def test_thumbnails_take_no_more_room_than_they_may_and_hostile_pictures_make_none(tmp_path: Path) -> None:
    def stored(data: bytes, number: int) -> ResultObject:
        return ResultObject(key="k", sha256=f"{number:064x}", size=len(data), content_type="image/png")

    pictures = [png(900, 300, colour) for colour in ("teal", "red", "blue", "gold")]
    size = len(Thumbnails(tmp_path / "one").of(stored(pictures[0], 0), lambda _: pictures[0]))
    kept = Thumbnails(tmp_path, most=3 * size)
    for number, data in enumerate(pictures):
        small = kept.of(stored(data, number), lambda _, data=data: data)  # type: ignore[misc]
        assert Image.open(io.BytesIO(small)).size == (320, 107)
    files = list((tmp_path / FOLDER).iterdir())
    assert 0 < sum(path.stat().st_size for path in files) <= 3 * size
    assert f"{3:064x}.webp" in {path.name for path in files}, "the newest is kept"
    for hostile in (b"", b"GIF89a", png()[:60]):
        with pytest.raises(Refused, match="no thumbnail"):
            kept.of(stored(hostile, 9), lambda _, hostile=hostile: hostile)  # type: ignore[misc]
    with pytest.raises(Refused, match="larger than"):
        kept.of(stored(b"", 9).model_copy(update={"size": 2**30}), lambda _: b"")


async def test_a_site_without_a_home_says_that_it_keeps_none(client: FarmClient, opened: Opening) -> None:
    async with opened(client) as web, web.having("submit") as http:
        assert (await http.get("/api/v1/gallery")).json()["type"] == "urn:render-farm:no-index"
        assert (await http.get("/submit")).json()["type"] == "urn:render-farm:no-forms"

"""`/v1`: what programs for OpenAI's images ask, as they ask it, on real servers."""

from __future__ import annotations

import base64
import io
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from PIL import Image

from farm import keys
from farm.bucket.preview import Preview
from farm.client import FarmClient
from farm.jobs.spec import JobSpec
from farm.web.limits import Limits
from farm.web.openai.asked import Edit, Generation
from farm.web.openai.encoding import Encoding
from farm.web.openai.links import SECONDS as LINK_SECONDS
from farm.web.openai.links import Links
from farm.web.problems import Refused
from farm.web.served import Served
from tests.farm.rendering import render
from tests.farm.web.asgi import bearer, connected, happens
from tests.farm.web.conftest import BASE, Opening, Web
from tests.ledgers import a_worker

pytestmark = pytest.mark.anyio

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
SERVED = Served(("emoji", "sd14"), "emoji")

# What each program sends of itself, recorded in its form.
OPEN_WEBUI = {"model": "gpt-image-1", "prompt": "an otter", "n": 2, "size": "512x512", "response_format": "b64_json"}
SILLY_TAVERN = {
    "prompt": "an otter",
    "model": "dall-e-3",
    "size": "1024x1792",
    "n": 1,
    "quality": "standard",
    "style": "vivid",
    "response_format": "b64_json",
}
LIBRE_CHAT = {
    "model": "gpt-image-1",
    "prompt": "an otter",
    "n": 1,
    "background": "auto",
    "output_format": "webp",
    "output_compression": 80,
    "quality": "auto",
    "size": "auto",
}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(file, "PNG")
    return file.getvalue()


def form(fields: dict[str, str], **files: bytes) -> tuple[dict[str, str], bytes]:
    """The header and the body of a form, as httpx makes them."""
    named = [(name.replace("__", "[]"), ("x.png", data, "image/png")) for name, data in files.items()]
    request = httpx2.Request("POST", BASE, data=fields, files=named)
    return {"content-type": request.headers["content-type"]}, request.read()


async def answered(
    web: Web, client: FarmClient, path: str, headers: dict[str, str], body: bytes
) -> tuple[Any, JobSpec]:
    """The answer to a request whose jobs are rendered by a stand-in, and the first one's spec."""
    before = sum(client.ledger.counts().values())
    headers = headers | bearer(web, "submit")
    async with connected(web.site.app, path, method="POST", headers=headers, body=body) as waiting:
        await happens(lambda: sum(client.ledger.counts().values()) > before, "it is queued")
        jobs = sorted(client.ledger.newest(limit=sum(client.ledger.counts().values()) - before))
        for job in jobs:
            render(client, job)
        assert await waiting.status() == 200
        return await waiting.json(), client.ledger.spec(jobs[0])


async def generated(web: Web, client: FarmClient, **asked: Any) -> tuple[Any, JobSpec]:
    return await answered(web, client, GENERATIONS, {}, json.dumps(asked).encode())


def opened_picture(told: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(told["b64_json"], validate=True)))


async def test_what_chat_programs_send_is_answered_with_pictures(web: Web, client: FarmClient) -> None:
    told, spec = await generated(web, client, **OPEN_WEBUI)
    assert isinstance(told["created"], int) and told["output_format"] == "png"
    assert [opened_picture(one).format for one in told["data"]] == ["PNG", "PNG"]
    assert (spec.model, spec.width, spec.height, spec.steps) == ("emoji", 512, 512, 30)
    told, spec = await generated(web, client, **SILLY_TAVERN)
    assert len(told["data"]) == 1 and (spec.width, spec.height) == (1024, 1792)
    told, spec = await generated(web, client, **LIBRE_CHAT)
    assert opened_picture(told["data"][0]).format == "WEBP" and spec.width is None
    told, spec = await generated(web, client, prompt="an otter", output_format="jpeg", output_compression=50)
    assert opened_picture(told["data"][0]).format == "JPEG"


@pytest.mark.parametrize("name", ["image", "image__"])
async def test_a_picture_to_edit_comes_as_a_file(web: Web, client: FarmClient, name: str) -> None:
    fields = {"model": "gpt-image-1", "prompt": "in oil", "quality": "auto", "size": "auto", "steps": "10"}
    headers, body = form(fields, **{name: png()})
    told, spec = await answered(web, client, EDITS, headers, body)
    assert opened_picture(told["data"][0]).size == (64, 64)
    assert spec.start.image and (spec.mode, spec.start.fit, spec.start.step) == ("img2img", "init", 3)


def transparent(width: int = 64) -> bytes:
    """A mask with a hole, where the picture is made anew."""
    file, made = io.BytesIO(), Image.new("RGBA", (width, 48), (0, 0, 0, 255))
    made.paste((0, 0, 0, 0), (0, 0, 16, 16))
    made.save(file, "PNG")
    return file.getvalue()


async def test_of_a_masked_picture_what_the_mask_lets_through_is_made_anew(web: Web, client: FarmClient) -> None:
    headers, body = form({"prompt": "a hat", "steps": "10"}, image=png(), mask=transparent())
    told, spec = await answered(web, client, EDITS, headers, body)
    assert told["data"] and spec.start.mask and spec.start.step == 0
    white = Image.open(io.BytesIO(client.storage.get(spec.start.mask.key)))
    assert (white.getpixel((8, 8)), white.getpixel((40, 40))) == (255, 0)


def test_what_is_asked_of_openai_is_asked_of_the_farm() -> None:
    def of(**asked: Any) -> dict[str, Any]:
        return Generation.model_validate({"prompt": "x", **asked}).fields(SERVED)

    assert of() == {"prompt": "x", "negative": "", "model": "emoji", "count": 1, "steps": 30}
    assert of(quality="high")["steps"] == 50 and of(quality="high", steps=4)["steps"] == 4
    assert of(model="SD14")["model"] == "sd14" and of(model="gpt-image-1")["model"] == "emoji"
    extras = of(seed=7, negative_prompt="mud", sampler="Euler a", guidance=3, user="me", moderation="low", n=None)
    assert (extras["seed"], extras["negative"], extras["sampler"], extras["guidance"]) == (7, "mud", "Euler a", 3.0)
    assert Edit.model_validate({"prompt": "x", "input_fidelity": "high"}).fields(SERVED)["strength"] == 0.5
    edit = Edit.model_validate({"prompt": "x", "size": "64x64", "strength": "0.3"}).fields(SERVED)
    assert (edit["strength"], edit["fit"]) == (0.3, "crop")


async def refused(http: httpx2.AsyncClient, path: str, code: int = 400, **sent: Any) -> dict[str, Any]:
    answer = await http.post(path, **sent)
    told = answer.json()
    assert (answer.status_code, told.keys()) == (code, {"error"}), answer.text
    assert told["error"].keys() == {"message", "type", "param", "code"}
    error: dict[str, Any] = told["error"]
    return error


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({}, "prompt", "prompt: field required"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"prompt": "x", "n": 11}, "n", "less than or equal to 10"),
        ({"prompt": "x", "size": "big"}, "size", "'big' is no size (such as 512x512, or auto)"),
        ({"prompt": "x", "size": "4096x4096"}, "size", "size: 4096: input should be less than or equal to 2048"),
        ({"prompt": "x", "background": "transparent"}, "background", "'transparent'"),
        ({"prompt": "x", "output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"prompt": "x", "output_compression": 101}, "output_compression", "101"),
        ({"prompt": "x", "partial_images": 4}, "partial_images", "4"),
        ({"prompt": "x", "stream": True, "response_format": "url"}, "response_format", "a stream brings"),
        ({"prompt": "x", "sampler": "magic"}, "sampler", "there is no sampler 'magic'"),
        ({"prompt": "x", "seed": -2}, "seed", "or -1 for a random one"),
    ],
)
async def test_what_is_wrong_is_told_as_openai_tells_it(web: Web, asked: Any, param: str, said: str) -> None:
    async with web.having("submit") as http:
        error = await refused(http, GENERATIONS, json=asked)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "invalid_input")
    assert said in error["message"]


async def test_no_path_or_address_is_opened_and_bad_pictures_are_refused(web: Web) -> None:
    async with web.having("submit") as http:
        for path in ("/etc/passwd", "http://169.254.169.254/x.png"):
            error = await refused(http, EDITS, data={"prompt": "x", "image": path}, files={"other": b"x"})
            assert (error["param"], "opens no path" in error["message"]) == ("image", True)
        two = [("image[]", ("a.png", png())), ("image[]", ("b.png", png()))]
        assert "there are 2 pictures" in (await refused(http, EDITS, data={"prompt": "x"}, files=two))["message"]
        for mask, said in ((png(), "has no transparency"), (b"GIF89a", "not a PNG"), (transparent(32), "has 32×48")):
            masked = {"image": ("a.png", png()), "mask": ("m.png", mask)}
            error = await refused(http, EDITS, data={"prompt": "x"}, files=masked)
            assert (error["param"], said in error["message"]) == ("mask", True), error
        assert "not a form" in (await refused(http, EDITS, json={"prompt": "x"}))["message"]
        bad = await refused(http, EDITS, data={"prompt": "x"}, files={"image": ("a.png", b"GIF89a")})
        assert bad["param"] == "image"


async def test_who_is_not_known_or_asks_too_often_is_told_so_too(client: FarmClient, opened: Opening) -> None:
    async with opened(client, limits=Limits(requests=0.5)) as web, web.having("view") as http, web.anyone() as stranger:
        error = await refused(stranger, GENERATIONS, 401, json={})
        assert (error["type"], error["code"]) == ("authentication_error", "not_signed_in")
        assert (await refused(http, GENERATIONS, 403, json={"prompt": "x"}))["type"] == "permission_error"
        await http.get("/v1/models")
        answer = await http.post(GENERATIONS, json={})
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(answer.headers["Retry-After"]) >= 1


async def test_models_are_told_and_looked_up(web: Web, client: FarmClient) -> None:
    client.ledger.announce(a_worker("w1", models=["emoji", "sd14"]))
    async with web.having("view") as http:
        told = (await http.get("/v1/models")).json()
        assert (told["object"], [one["id"] for one in told["data"]]) == ("list", ["emoji", "sd14"])
        assert (await http.get("/v1/models/sd14")).json() == told["data"][1]
        assert (await http.get("/v1/models/xl")).json()["error"]["code"] == "model_not_found"


async def test_a_link_needs_no_token_and_is_of_no_use_once_it_was_changed(web: Web, client: FarmClient) -> None:
    told, _ = await generated(web, client, prompt="x", response_format="url", output_format="webp")
    url = told["data"][0]["url"]
    assert url.startswith(f"{BASE}/v1/images/picture?")
    async with web.anyone() as http:
        answer = await http.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        assert Image.open(io.BytesIO(answer.content)).format == "WEBP"
        elsewhere = {"Origin": "https://chat.example.org", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
        shown = await http.get(url, headers=elsewhere)
        assert (shown.status_code, shown.headers["cross-origin-resource-policy"]) == (200, "cross-origin")
        for path in ("/v1/models", "/", "/api/v1/jobs"):
            assert (await http.get(path, headers=elsewhere)).status_code == 403
        assert (await http.post("/v1/images/picture", headers=elsewhere)).status_code == 403
        [job] = parse_qs(urlsplit(url).query)["job"]
        for changed in (
            url.replace(job, keys.job_in_batch("0" * 16, 0)),
            url.replace("format=webp", "format=png"),
            url.replace("expires=", "expires=9"),
            url[:-1] + ("0" if url[-1] != "0" else "1"),
        ):
            assert (await http.get(changed)).status_code == 403, changed
        assert (await http.get("/v1/images/picture")).json()["error"]["type"] == "invalid_request_error"


def test_a_link_ends() -> None:
    now = 1e9
    links = Links(clock=lambda: now)
    encoding = Encoding("png", 100)
    query = {name: value[0] for name, value in parse_qs(links.query("job", encoding)).items()}
    now += LINK_SECONDS
    links.check("job", encoding, int(query["expires"]), query["sign"])
    now += 1
    with pytest.raises(Refused):
        links.check("job", encoding, int(query["expires"]), query["sign"])


async def test_where_others_reach_the_bucket_a_link_leads_there(web: Web, client: FarmClient) -> None:
    object.__setattr__(client.settings, "s3_public_endpoint", client.settings.s3_endpoint)
    try:
        told, _ = await generated(web, client, prompt="x", response_format="url")
    finally:
        object.__setattr__(client.settings, "s3_public_endpoint", None)
    assert Image.open(io.BytesIO(httpx2.get(told["data"][0]["url"]).content)).format == "PNG"


def streaming(**asked: Any) -> bytes:
    return json.dumps({"prompt": "an otter", "stream": True, **asked}).encode()


def looks(client: FarmClient, job: str, attempt: int, step: int) -> None:
    client.ledger.renew("w1", [(job, attempt, step)])
    picture = Image.linear_gradient("L").resize((12, 8)).convert("RGB")
    client.storage.put(keys.preview(job), Preview(job, attempt, step, (96, 64), picture).to_png(), "image/png")


async def test_a_stream_shows_how_it_looks_and_then_the_picture(web: Web, client: FarmClient) -> None:
    headers = bearer(web, "submit")
    body = streaming(steps=12, partial_images=2)
    async with connected(web.site.app, GENERATIONS, method="POST", headers=headers, body=body) as stream:
        assert await stream.status() == 200
        [job] = client.ledger.newest()
        claim = client.ledger.claim(job, "w1")
        assert claim
        for index, step in enumerate((5, 9)):
            looks(client, job, claim.attempt, step)
            event = await stream.event()
            told = json.loads(event["data"])
            assert event["event"] == told["type"] == "image_generation.partial_image"
            assert (told["partial_image_index"], told["size"]) == (index, "96x64")
            assert opened_picture(told).size == (96, 64)
        client.ledger.release(claim, "w1")
        render(client, job)
        told = json.loads((await stream.event())["data"])
        assert (told["type"], told["usage"]["total_tokens"]) == ("image_generation.completed", 0)
        assert opened_picture(told).size == (64, 64)
        assert await stream.event() == {}


async def test_a_stream_of_an_edit_has_its_own_names_and_tells_what_failed(web: Web, client: FarmClient) -> None:
    headers, body = form({"prompt": "in oil", "stream": "true", "n": "2"}, image=png())
    headers |= bearer(web, "submit")
    async with connected(web.site.app, EDITS, method="POST", headers=headers, body=body) as stream:
        assert await stream.status() == 200
        jobs = sorted(client.ledger.newest())
        render(client, jobs[0])
        assert (await stream.event())["event"] == "image_edit.completed"
        claim = client.ledger.claim(jobs[1], "w1")
        assert claim
        error = json.dumps({"kind": "nan", "message": "the picture is not a number"})
        assert client.ledger.finish(claim, "w1", "failed", {"error": error})
        event = await stream.event()
        assert event["event"] == "error"
        assert "not a number" in json.loads(event["data"])["error"]["message"]
        assert await stream.event() == {}


async def test_who_leaves_a_stream_or_an_answer_cancels_what_only_they_waited_for(web: Web, client: FarmClient) -> None:
    headers = bearer(web, "submit")
    post: dict[str, Any] = {"method": "POST", "headers": headers}
    async with connected(web.site.app, GENERATIONS, body=streaming(), **post) as stream:
        assert await stream.status() == 200
    await happens(lambda: client.ledger.counts()["cancelled"] == 1, "it is cancelled")
    body = json.dumps({"prompt": "x", "n": 2}).encode()
    async with connected(web.site.app, GENERATIONS, body=body, **post) as waiting:
        await happens(lambda: client.ledger.counts()["queued"] == 2, "they are queued")
        waiting.gone.set()
        await happens(lambda: client.ledger.counts()["cancelled"] == 3, "they are cancelled")
    assert not web.site.parts.hub._followers and not web.site.parts.usage._streams


async def test_a_job_that_is_cancelled_or_late_is_not_asked_for_again(client: FarmClient, opened: Opening) -> None:
    async with opened(client, limits=Limits(wait_seconds=0.2)) as web, web.having("submit") as http:
        answer = await http.post(GENERATIONS, json={"prompt": "x"})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (504, "false")
        answer = await http.post(GENERATIONS, content=streaming())
        assert '"code": "not_in_time"' in answer.text
        await happens(lambda: client.ledger.counts()["cancelled"] == 2, "nobody can come back for them")
    async with opened(client) as web:
        headers, body = bearer(web, "submit"), json.dumps({"prompt": "x"}).encode()
        async with connected(web.site.app, GENERATIONS, method="POST", headers=headers, body=body) as waiting:
            await happens(lambda: client.ledger.counts()["queued"] == 1, "it is queued")
            client.cancel_all()
            assert await waiting.status() == 500
            assert (await waiting.json())["error"]["code"] == "cancelled"

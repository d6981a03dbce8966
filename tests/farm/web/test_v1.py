"""`/api/v1`: everything that `FarmClient` can, over HTTP, on real servers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from farm import keys
from farm.bucket.job_log import AttemptLog, LogLine, write_log
from farm.bucket.preview import Preview
from farm.client import FarmClient
from farm.client import models as keeping
from farm.client.loras import add, remove
from farm.errors import StorageError
from farm.jobs.request import JobRequest
from farm.web.limits import Limits
from tests.farm.rendering import TRACE, render
from tests.farm.web.conftest import Opening, Web
from tests.ledgers import a_worker
from tests.models_on_disk import write_folder, write_weights
from tests.pictures import enormous_png

pytestmark = pytest.mark.anyio

OTTER = {"prompt": "an otter", "seed": 1}


def png(width: int = 64, height: int = 64, colour: str = "teal") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


async def posted(http: httpx2.AsyncClient, *requests: dict[str, Any], code: int = 201, key: str | None = None) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    answer = await http.post("/api/v1/jobs", json={"requests": requests}, headers=headers)
    assert answer.status_code == code, answer.text
    return answer.json()


async def test_a_submission_is_one_batch_with_its_seeds_and_warnings(web: Web, client: FarmClient) -> None:
    async with web.having("submit") as http:
        answer = await http.post("/api/v1/jobs", json={"requests": [{**OTTER, "count": 2, "labels": {"a": "b"}}]})
        told = answer.json()

        assert answer.status_code == 201
        assert answer.headers["Location"] == f"/api/v1/batches/{told['batch']}"
        assert told["jobs"] == [f"{told['batch']}-0000", f"{told['batch']}-0001"]
        assert [spec["seed"] for spec in told["specs"]] == [1, 2]
        assert "no live worker serves the model 'emoji'" in told["warnings"][0]
        assert client.queue.depth("emoji") == 2

        status = (await http.get(f"/api/v1/jobs/{told['jobs'][0]}")).json()
        assert status == client.ledger.get(told["jobs"][0]).model_dump(mode="json")
        assert status["labels"] == {"a": "b"}
        batch = (await http.get(f"/api/v1/batches/{told['batch'][:8]}", params={"limit": 1})).json()
        assert [job["id"] for job in batch["jobs"]] == told["jobs"][:1] and batch["next"] == "1"


async def test_what_is_wrong_is_told_in_the_words_of_the_command_before_anything_is_queued(
    web: Web, client: FarmClient
) -> None:
    async with web.having("submit") as http:
        problem = await posted(http, OTTER, {"prompt": "x", "steps": 0}, code=422)
        assert problem == {
            "type": "urn:render-farm:invalid-input",
            "title": "Invalid input",
            "status": 422,
            "detail": "requests.1.steps: 0: input should be greater than or equal to 1",
            "hint": None,
            "field": "requests.1.steps",
        }
        assert "there is no job" in (await http.get(f"/api/v1/jobs/{keys.job_in_batch('0' * 16, 0)}")).json()["detail"]
        assert (await posted(http, {**OTTER, "count": 1_001}, code=422))["detail"].endswith(
            "1,001 jobs, more than 1,000"
        )
        assert (await posted(http, code=422))["detail"] == "there is nothing to submit"
        problem = await posted(http, {**OTTER, "fit": "pad"}, code=422)
        assert problem["detail"] == "requests.0: 'fit' needs an init image: give 'init'", "and not --init FILE"
        problem = await posted(http, {**OTTER, "model": "emoji", "crop": "8,0"}, code=422)
        assert problem["field"] == "crop" and "only models of SDXL are told" in problem["detail"]
        for body in (b"{", b"[]", b'{"request": []}', b'{"requests": {}}', b'{"requests": [NaN]}', b"[" * 100_000):
            answer = await http.post("/api/v1/jobs", content=body, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), body
    assert sum(client.ledger.counts().values()) == 0


async def test_pictures_come_as_base64_or_as_files_and_are_stored_by_their_content(
    web: Web, client: FarmClient
) -> None:
    picture = png()
    inline = {**OTTER, "mode": "img2img", "init": {"base64": base64.b64encode(picture).decode()}}
    named = {**OTTER, "mode": "img2img", "init": {"upload": "mine"}}
    async with web.having("submit") as http:
        first = await posted(http, inline)
        form = {"submission": json.dumps({"requests": [named]})}
        answer = await http.post("/api/v1/jobs", data=form, files={"mine": ("x.png", picture)})
        assert answer.status_code == 201, answer.text

        for told in (first, answer.json()):
            image = told["specs"][0]["start"]["image"]
            assert image["sha256"] == hashlib.sha256(picture).hexdigest()
            assert client.storage.get(keys.init_image(image["sha256"], "png")) == picture

        missing = await http.post("/api/v1/jobs", data=form, files={"other": ("x.png", picture)})
        assert "no file 'mine' came along" in missing.json()["detail"]
        not_one = await posted(http, {**inline, "init": {"base64": base64.b64encode(b"GIF89a").decode()}}, code=422)
        assert not_one["detail"] == "requests.0.init: the init picture is not a PNG, JPEG or WebP image"


async def test_a_mask_comes_along_as_its_picture_does(web: Web, client: FarmClient) -> None:
    file = io.BytesIO()
    with Image.open(io.BytesIO(png())) as picture:
        mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 8, 8))
    mask.save(file, "PNG")
    inline = {"base64": base64.b64encode(file.getvalue()).decode()}
    asked = {**OTTER, "mode": "img2img", "init": {"upload": "mine"}, "mask": {"upload": "m"}, "redo": "black"}
    form = {"submission": json.dumps({"requests": [asked]})}
    async with web.having("submit") as http:
        answer = await http.post(
            "/api/v1/jobs", data=form, files={"mine": ("x.png", png()), "m": ("m.png", file.getvalue())}
        )
        assert answer.status_code == 201, answer.text
        [spec] = answer.json()["specs"]
        assert spec["start"]["redo"] == "black"
        assert client.storage.get(keys.init_image(spec["start"]["mask"]["sha256"], "png")) == file.getvalue()

        init = {"base64": base64.b64encode(png()).decode()}
        alone = (await http.post("/api/v1/jobs", json={"specs": [{"spec": spec, "init": init}]})).json()
        assert "specs.0.mask: it has a mask, which has to come along" in alone["detail"]
        whole = {"spec": spec, "init": init, "mask": inline}
        again = await http.post("/api/v1/jobs", json={"specs": [whole]})
        assert again.json()["specs"] == [spec]

        for wrong, said in (
            ("/etc/passwd", "requests.0.mask: a server opens no path"),
            ("alpha", "requests.0.mask: the init picture has no transparency"),
            ({"base64": base64.b64encode(b"GIF89a").decode()}, "requests.0.mask: the mask is not a PNG, JPEG or WebP"),
            ({"base64": base64.b64encode(enormous_png()).decode()}, "requests.0.mask: the mask has"),
        ):
            problem = await posted(http, {**OTTER, "mode": "img2img", "init": init, "mask": wrong}, code=422)
            assert problem["detail"].startswith(said)


@pytest.mark.parametrize(
    "init", ["/etc/passwd", "http://169.254.169.254/", "s3://farm/x", "", ["a"], {"path": "/etc/passwd"}, {"upload": 1}]
)
async def test_no_path_key_or_address_of_a_client_is_opened(web: Web, init: object) -> None:
    async with web.having("operate") as http:
        problem = await posted(http, {**OTTER, "mode": "img2img", "init": init}, code=422)
    assert problem["field"] == "requests.0.init"
    assert "send the picture itself" in problem["hint"]


async def test_a_spec_makes_the_very_same_job_again(web: Web, client: FarmClient) -> None:
    [spec] = client.submit([JobRequest.parse(OTTER)]).specs
    picture = png(colour="red")
    [started] = client.submit([JobRequest.parse({**OTTER, "mode": "img2img", "init": picture})]).specs
    with_picture = {"spec": started.model_dump(mode="json"), "init": {"base64": base64.b64encode(picture).decode()}}
    async with web.having("submit") as http:
        specs = [{"spec": spec.model_dump(mode="json"), "priority": 9, "labels": {"again": "yes"}}, with_picture]
        told = (await http.post("/api/v1/jobs", json={"specs": specs})).json()
        assert told["specs"] == [spec.model_dump(mode="json"), started.model_dump(mode="json")]
        status = client.ledger.get(told["jobs"][0])
        assert (status.priority, status.labels) == (9, {"again": "yes"})

        other = {"base64": base64.b64encode(png(colour="blue")).decode()}
        answer = await http.post("/api/v1/jobs", json={"specs": [{**with_picture, "init": other}]})
        assert "this is not the picture that it started from" in answer.json()["detail"]
        without = await http.post("/api/v1/jobs", json={"specs": [{"spec": with_picture["spec"]}]})
        assert without.status_code == 422


async def test_a_submission_whose_answer_was_lost_is_the_same_one_when_it_is_sent_again(
    web: Web, client: FarmClient
) -> None:
    key = "mine-1"
    async with web.having("submit") as http, web.having("submit") as other:
        first = await posted(http, {"prompt": "an otter", "count": 3}, key=key)
        again = await posted(http, {"prompt": "an otter", "count": 3}, key=key)

        assert again["jobs"] == first["jobs"] and again["specs"] == first["specs"], "with the same random seeds"
        assert client.ledger.counts()["queued"] == 3
        problem = await posted(http, {"prompt": "a cat"}, code=422, key=key)
        assert problem["type"] == "urn:render-farm:idempotency-key-reused"
        assert (await posted(other, {"prompt": "a cat"}, key=key))["batch"] != first["batch"], (
            "keys are each caller's own"
        )
        assert (await posted(http, OTTER, code=422, key="a b"))["field"] == "Idempotency-Key"


async def test_a_stranger_s_note_of_a_key_is_told_and_not_followed(web: Web, client: FarmClient) -> None:
    async with web.having("submit") as http:
        await posted(http, OTTER, key="k")
        [name] = client.ledger.redis.keys("farm:once:*")
        for note in ("", "{}", '["../../x", "y"]', "[1, 2]", "[" * 5_000):
            client.ledger.redis.set(name, note)
            assert (await posted(http, OTTER, code=503, key="k"))["type"] == "urn:render-farm:ledger-unavailable"


async def test_many_submit_at_once_at_a_site_that_has_just_begun(web: Web, client: FarmClient) -> None:
    async with web.having("submit") as http:
        told = await asyncio.gather(*(posted(http, {**OTTER, "model": f"m{n % 3}"}) for n in range(24)))
    assert len({one["batch"] for one in told}) == 24
    assert sum(client.queue.depth(f"m{n}") for n in range(3)) == client.ledger.counts()["queued"] == 24
    assert not [warning for one in told for warning in one["warnings"] if "told" in warning]


async def test_the_same_submission_twice_at_once_is_one(web: Web, client: FarmClient) -> None:
    async with web.having("submit") as http:
        body = {"requests": [{"prompt": "an otter", "count": 5}]}
        answers = await asyncio.gather(
            *(http.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": "k"}) for _ in range(6))
        )
    told = [answer.json() for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 409} and told
    assert all(one["specs"] == told[0]["specs"] for one in told)
    assert [client.ledger.spec(job).seed for job in told[0]["jobs"]] == [spec["seed"] for spec in told[0]["specs"]]
    assert client.ledger.counts()["queued"] == 5


async def test_pages_follow_one_another_while_jobs_come(web: Web, client: FarmClient) -> None:
    jobs = client.submit([JobRequest.parse({**OTTER, "count": 7})]).jobs
    seen: list[str] = []
    cursor: str | None = None
    async with web.having("view") as http:
        while True:
            params: dict[str, Any] = {"limit": 3, **({"cursor": cursor} if cursor else {})}
            page = (await http.get("/api/v1/jobs", params=params)).json()
            seen += [job["id"] for job in page["jobs"]]
            client.submit([JobRequest.parse(OTTER)])
            if not (cursor := page["next"]):
                break
        assert seen == sorted(jobs, reverse=True), "of one millisecond, and each once"
        queued = (await http.get("/api/v1/jobs", params={"state": "queued", "limit": 5})).json()
        client.cancel([queued["jobs"][4]["id"]])
        rest = (await http.get("/api/v1/jobs", params={"state": "queued", "cursor": queued["next"]})).json()
        ids = [job["id"] for job in queued["jobs"] + rest["jobs"]]
        assert len(ids) == len(set(ids)) == 10, "the job at the cursor has left the list, and nothing shifts"


@pytest.mark.parametrize("cursor", ["x", "AAAA", "Li4v", "-", "é", "MTIzLjAwMDA", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ"])
async def test_a_forged_cursor_is_refused(web: Web, cursor: str) -> None:
    async with web.having("view") as http:
        answer = await http.get("/api/v1/jobs", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["field"]) == (422, "cursor")


async def test_jobs_are_cancelled_and_queued_again(web: Web, client: FarmClient) -> None:
    jobs = client.submit([JobRequest.parse({**OTTER, "count": 2})]).jobs
    async with web.having("submit") as http, web.having("operate") as operator:
        before = (await http.post("/api/v1/cancel", json={"names": [jobs[0]]})).json()
        assert before == {"before": {jobs[0]: "queued"}}
        assert (await http.post("/api/v1/retry", json={"names": [jobs[0]]})).json() == {"jobs": [jobs[0]]}
        wrong = await http.post("/api/v1/retry", json={"names": [jobs[0]]})
        assert (wrong.status_code, wrong.json()["type"]) == (409, "urn:render-farm:wrong-state")
        assert (await http.post("/api/v1/cancel", json={"all": True})).status_code == 403
        assert (await http.post("/api/v1/cancel", json={})).status_code == 422
        assert (await operator.post("/api/v1/cancel", json={"all": True})).status_code == 200
    assert client.ledger.counts()["cancelled"] == 2


async def test_queued_jobs_are_given_another_priority_and_others_told_as_they_are(web: Web, client: FarmClient) -> None:
    batch = client.submit([JobRequest.parse({**OTTER, "count": 2})])
    first, second = batch.jobs
    client.ledger.cancel(second)
    async with web.having("submit") as http:
        path = "/api/v1/jobs/priority"
        assert (await http.post(path, json={"names": [batch.batch], "priority": 8})).json() == {
            "jobs": {
                first: {"state": "queued", "before": 5, "priority": 8},
                second: {"state": "cancelled", "before": 5, "priority": 5},
            }
        }
        assert (await http.post(path, json={"names": [first], "by": -3})).json()["jobs"][first]["priority"] == 5
        for wrong in ({"priority": 10}, {"priority": True}, {"by": "1"}, {"by": 10}, {"priority": 1, "by": 1}, {}):
            assert (await http.post(path, json={"names": [first], **wrong})).status_code == 422
        assert (await http.post(path, json={"names": ["0" * 16], "priority": 1})).status_code == 404
    assert client.ledger.get(first).priority == 5


async def test_results_come_by_a_link_or_through_the_site_and_are_checked(web: Web, client: FarmClient) -> None:
    [job, waiting] = client.submit([JobRequest.parse({**OTTER, "count": 2})]).jobs
    made = render(client, job)
    async with web.having("view") as http:
        result = (await http.get(f"/api/v1/jobs/{job}/result")).json()
        assert result["objects"]["image.png"]["sha256"] == hashlib.sha256(made.picture).hexdigest()

        picture = await http.get(f"/api/v1/jobs/{job}/objects/image.png")  # of a local farm: through here
        assert (picture.content, picture.headers["content-type"]) == (made.picture, "image/png")
        seen = await http.get(
            f"/api/v1/jobs/{job}/objects/image.png", headers={"If-None-Match": picture.headers["etag"]}
        )
        assert (seen.status_code, seen.content) == (304, b"")
        trace = await http.get(f"/api/v1/jobs/{job}/objects/trace.jsonl")
        assert trace.content == TRACE
        link = await http.get(f"/api/v1/jobs/{job}/objects/image.png", params={"delivery": "redirect"})
        assert link.status_code == 307
        assert httpx2.get(link.headers["Location"]).content == made.picture
        for name in ("other.png", "../../batches", "%2e%2e/x"):
            assert (await http.get(f"/api/v1/jobs/{job}/objects/{name}")).status_code == 404
        unready = await http.get(f"/api/v1/jobs/{waiting}/result")
        assert (unready.status_code, unready.json()["type"]) == (409, "urn:render-farm:wrong-state")

        client.storage.put(made.key("trace.jsonl"), bytes(len(TRACE)), "text/html")
        damaged = await http.get(f"/api/v1/jobs/{job}/objects/trace.jsonl")
        assert (damaged.status_code, damaged.json()["type"]) == (502, "urn:render-farm:fetch-refused")


async def test_a_large_object_that_is_damaged_never_becomes_whole(web: Web, client: FarmClient) -> None:
    [job] = client.submit([JobRequest.parse(OTTER)]).jobs
    made = render(client, job)
    large = bytes(600_000)
    result = json.loads(client.storage.get(keys.attempt_result(job, 1)))
    result["objects"]["trace.jsonl"] |= {"size": len(large), "sha256": hashlib.sha256(large).hexdigest()}
    client.storage.put(keys.attempt_result(job, 1), json.dumps(result).encode(), "application/json")
    client.storage.put(made.key("trace.jsonl"), large, "text/html")
    async with web.having("view") as http:
        whole = await http.get(f"/api/v1/jobs/{job}/objects/trace.jsonl")
        assert whole.content == large and whole.headers["content-type"] == "application/x-ndjson"
        client.storage.put(made.key("trace.jsonl"), large[:-1] + b"!", "text/html")
        with pytest.raises(Exception, match="already started"):
            transport = httpx2.ASGITransport(app=web.site.app)
            async with httpx2.AsyncClient(transport=transport, base_url=str(http.base_url)) as strict:
                await strict.get(f"/api/v1/jobs/{job}/objects/trace.jsonl", headers=http.headers)


async def test_a_running_job_is_seen_as_its_worker_shows_it(web: Web, client: FarmClient) -> None:
    [job] = client.submit([JobRequest.parse(OTTER)]).jobs
    async with web.having("view") as http:
        assert (await http.get(f"/api/v1/jobs/{job}/preview")).json()["type"] == "urn:render-farm:no-preview"
        claim = client.ledger.claim(job, "w1")
        assert claim
        picture = Image.linear_gradient("L").resize((12, 8)).convert("RGB")
        client.storage.put(keys.preview(job), Preview(job, 1, 3, (96, 64), picture).to_png(), "image/png")

        answer = await http.get(f"/api/v1/jobs/{job}/preview")

        assert (answer.headers["Farm-Step"], answer.headers["Farm-Size"]) == ("3", "96x64")
        assert Image.open(io.BytesIO(answer.content)).size == (12, 8)
        assert client.ledger.renew("w1", [(job, 1, 3)]).previewed == {(job, 1)}, "its worker hears that somebody looks"


async def test_what_was_logged_of_a_job_is_told_to_who_may_look(web: Web, client: FarmClient) -> None:
    [job] = client.submit([JobRequest.parse(OTTER)]).jobs
    assert client.ledger.claim(job, "w1")
    line = LogLine(at=None, level="error", text="it failed")
    async with web.having("view") as http:
        assert (await http.get(f"/api/v1/jobs/{job}/log")).json() == {"job": job, "attempts": []}
        write_log(client.storage, AttemptLog(job=job, attempt=1, worker="w1", lines=(line,)))
        [told] = (await http.get(f"/api/v1/jobs/{job}/log")).json()["attempts"]
        assert (told["attempt"], told["lines"]) == (1, [{"at": None, "level": "error", "text": "it failed"}])
        unknown = await http.get(f"/api/v1/jobs/{'0' * 16}-9999/log")
        assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:render-farm:job-not-found")


async def test_what_the_farm_has_is_told(web: Web, client: FarmClient) -> None:
    client.ledger.announce(a_worker("w1", models=["emoji"], refused={"other": "it is damaged"}))
    client.submit([JobRequest.parse({**OTTER, "model": "other"})])
    async with web.having("view") as http:
        assert [worker["id"] for worker in (await http.get("/api/v1/workers")).json()] == ["w1"]
        not_kept = {"warm": [], "is_kept": False, "kept": None}
        assert [one for one in (await http.get("/api/v1/models")).json() if one["name"] in ("emoji", "other")] == [
            {"name": "emoji", "workers": ["w1"], "refused": {}, "waiting": 0, **not_kept},
            {"name": "other", "workers": [], "refused": {"w1": "it is damaged"}, "waiting": 1, **not_kept},
        ]
        assert "blue" in {loss["name"] for loss in (await http.get("/api/v1/losses")).json()}


async def test_what_the_farm_keeps_of_models_is_told(
    web: Web, client: FarmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = write_weights(tmp_path / "better.safetensors", {"decoder.conv_in.weight": (8, 8)})
    source = f"{write_folder(tmp_path / 'mine', width=1024)}#prediction=v#vae={vae}"
    added = keeping.add(client.ledger, client.storage, "mine", source, replace=True).model
    client.ledger.announce(a_worker("w1", models=["mine"], warm=["mine"]))
    async with web.having("view") as http:
        [told] = [one for one in (await http.get("/api/v1/models")).json() if one["name"] == "mine"]
        assert told == {
            "name": "mine",
            "workers": ["w1"],
            "warm": ["w1"],
            "refused": {},
            "waiting": 0,
            "is_kept": True,
            "kept": {
                "layout": "folder",
                "kind": "sd2",
                "size": added.size,
                "source": source,
                "options": {"prediction": "v", "vae": "better.safetensors"},
                "added": added.added.isoformat().replace("+00:00", "Z"),
            },
        }

        def away(*_: object, **__: object) -> None:
            raise StorageError("the bucket is away")

        monkeypatch.setattr(client, "check_bucket", away)
        [told] = (await http.get("/api/v1/models")).json()
        assert (told["name"], told["workers"], told["is_kept"], told["kept"]) == ("mine", ["w1"], None, None)
    monkeypatch.undo()
    keeping.remove(client.ledger, client.storage, "mine", force=True)


async def test_a_worker_is_drained_and_resumed_by_who_may_operate(web: Web, client: FarmClient) -> None:
    client.ledger.announce(a_worker("a/b-0a1b", models=["emoji"]))
    one = "/api/v1/workers/a%2Fb-0a1b"
    async with web.having("submit") as http:
        assert (await http.post(f"{one}/drain")).json()["type"] == "urn:render-farm:role-too-small"
    async with web.having("operate") as http:
        both = {"names": ["a/b"], "workers": ["a/b-0a1b"]}
        assert (await http.post(f"{one}/drain")).json() == both
        assert [drained.wish for drained in client.ledger.drained()] == ["finish"]
        assert (await http.post("/api/v1/workers/a%2Fb/drain?hand_back=true")).json() == both
        assert [drained.wish for drained in client.ledger.drained()] == ["hand-back"]
        assert (await http.post(f"{one}/resume")).json() == both
        assert client.ledger.drained() == []
        misspelt = await http.post(f"{one}/drain?handback=true")
        assert (misspelt.status_code, misspelt.json()["detail"]) == (422, "handback: is no parameter of this")
        assert misspelt.json()["hint"] == "known here: hand_back"
        gone = await http.post("/api/v1/workers/gone-0a1b/drain")
        assert (gone.status_code, gone.json()["type"]) == (404, "urn:render-farm:worker-not-found")


async def test_loras_are_told_and_named_in_jobs(web: Web, client: FarmClient, tmp_path: Path) -> None:
    shapes = {"lora_unet_conv_in.lora_down.weight": (4, 4), "lora_unet_conv_in.lora_up.weight": (320, 4)}
    lora = add(client.ledger, client.storage, "detail", str(write_weights(tmp_path / "a.safetensors", shapes))).lora
    try:
        async with web.having("submit") as http:
            [told] = (await http.get("/api/v1/loras")).json()
            assert (told["name"], told["kind"], told["ranks"], told["sha256"]) == (
                "detail",
                "sd",
                [4],
                lora.file.sha256,
            )
            assert str(tmp_path) not in json.dumps(told), "where it came from is nobody's business"
            weighted = {"name": "detail", "unet": 0.5, "text": 0}
            made = await posted(http, {**OTTER, "loras": [weighted]}, {"prompt": "an otter <lora:detail:2>"})
            assert [[use["sha256"] for use in spec["loras"]] for spec in made["specs"]] == [[lora.file.sha256]] * 2
            assert [spec["loras"][0]["unet"] for spec in made["specs"]] == [0.5, 2]

            problem = await posted(http, {**OTTER, "loras": [{"name": "detial"}]}, code=422)
            assert (problem["field"], problem["detail"]) == ("loras", "loras: the farm keeps no LoRA 'detial'")
            assert problem["hint"].startswith("did you mean 'detail'?")
            assert client.ledger.counts()["queued"] == 2
    finally:
        remove(client.ledger, client.storage, "detail", force=True)


async def test_the_document_tells_of_every_path_with_examples(web: Web) -> None:
    async with web.anyone() as http:
        document = (await http.get("/api/v1/openapi.json")).json()
    assert document["info"]["title"] == "The render farm for Stable Diffusion"
    assert document["components"]["schemas"]["Submission"]["examples"]
    assert {"/api/v1/jobs", "/api/v1/events", "/api/v1/jobs/{job}/objects/{name}"} <= document["paths"].keys()
    references = {part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert references <= document["components"]["schemas"].keys()


async def test_servers_that_are_away_are_told_and_not_waited_for(nowhere: FarmClient, opened: Opening) -> None:
    async with opened(nowhere, limits=Limits()) as web, web.having("operate") as http:
        paths = ("jobs", "workers", "models", "events", f"jobs/{keys.job_in_batch('0' * 16, 0)}/result")
        answers = await asyncio.gather(*(http.get(f"/api/v1/{path}") for path in paths))
        for path, answer in zip(paths, answers, strict=True):
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:render-farm:ledger-unavailable"), path
            assert answer.headers["Retry-After"] == "5"
            assert "Redis at 127.0.0.1:1/0 cannot be used" in answer.json()["detail"]


async def test_a_job_is_rendered_again_with_the_picture_that_it_started_from(web: Web, client: FarmClient) -> None:
    inline = {**OTTER, "mode": "img2img", "init": {"base64": base64.b64encode(png()).decode()}}
    async with web.having("submit") as http, web.having("view") as viewer:
        first = await posted(http, inline)
        path = f"/api/v1/jobs/{first['jobs'][0]}/again"
        assert (await viewer.post(path)).status_code == 403
        again = await http.post(path)
        assert again.status_code == 201, again.text
        assert again.json()["specs"] == first["specs"] and again.json()["jobs"] != first["jobs"]
        client.storage.delete(keys.init_image(first["specs"][0]["start"]["image"]["sha256"], "png"))
        gone = await http.post(path)
        assert (gone.status_code, "not in this bucket" in gone.json()["detail"]) == (422, True)


async def test_previews_of_several_jobs_come_together(web: Web, client: FarmClient) -> None:
    jobs = [*client.submit([JobRequest.parse({**OTTER, "count": 2})]).jobs]
    for job in jobs:
        assert client.ledger.claim(job, "w1")
    look = Preview(jobs[1], 1, 3, (64, 64), Image.new("RGB", (8, 8), "teal"))
    client.storage.put(keys.preview(jobs[1]), look.to_png(), "image/png")
    async with web.having("view") as http:
        told = (await http.get("/api/v1/previews", params={"name": jobs})).json()
        assert (await http.get("/api/v1/previews", params={"name": jobs * 9})).status_code == 422
    assert told.keys() == {jobs[1]}
    assert {name: told[jobs[1]][name] for name in ("attempt", "step", "width")} == {
        "attempt": 1,
        "step": 3,
        "width": 64,
    }
    assert Image.open(io.BytesIO(base64.b64decode(told[jobs[1]]["png"]))).size == (8, 8)


async def test_a_lora_is_removed_by_who_may_operate(web: Web, client: FarmClient, tmp_path: Path) -> None:
    client.check_bucket()
    shapes = {"lora_unet_conv_in.lora_down.weight": (4, 4), "lora_unet_conv_in.lora_up.weight": (320, 4)}
    add(client.ledger, client.storage, "gone", str(write_weights(tmp_path / "gone.safetensors", shapes)), replace=True)
    waiting = JobRequest.parse({**OTTER, "model": "nobodys", "loras": [{"name": "gone"}]})
    await asyncio.to_thread(client.submit, [waiting])
    async with web.having("submit") as submitter, web.having("operate") as http:
        path = "/api/v1/loras/gone"
        assert (await submitter.delete(path)).status_code == 403
        assert "1 job waits" in (await http.delete(path)).json()["detail"]
        assert (await http.delete(path, params={"force": True})).json()["name"] == "gone"
        assert (await http.delete(path)).status_code == 404


async def test_a_model_is_removed_by_who_may_operate(web: Web, client: FarmClient, tmp_path: Path) -> None:
    client.check_bucket()
    keeping.add(client.ledger, client.storage, "mine", str(write_folder(tmp_path / "mine", fill=53)), replace=True)
    await asyncio.to_thread(client.submit, [JobRequest.parse({**OTTER, "model": "mine"})])
    async with web.having("submit") as submitter, web.having("operate") as http:
        path = "/api/v1/models/mine"
        assert (await submitter.delete(path)).status_code == 403
        assert "1 job waits" in (await http.delete(path)).json()["detail"]
        removed = await http.delete(path, params={"force": True})
        assert removed.json()["name"] == "mine" and removed.json()["freed"] > 0
        for name in ("mine", "..%2f..", "emoji"):
            gone = await http.delete(f"/api/v1/models/{name}")
            assert gone.status_code == 404, name
        assert gone.json()["detail"] == "'emoji' comes with the farm, which does not keep it in its bucket"
        keeping.add(client.ledger, client.storage, "mine", str(tmp_path / "mine"))
        gone = await http.delete("/api/v1/models/mnie")
        assert gone.json()["type"] == "urn:render-farm:model-not-kept"
        assert gone.json()["hint"].startswith("did you mean 'mine'")
        await http.delete(path)

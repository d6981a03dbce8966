"""`/sdapi/v1`: what programs for A1111's web UI ask, as they ask it, on real servers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import zlib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from farm import keys
from farm.bucket.preview import Preview
from farm.client import FarmClient
from farm.client.loras import add, remove
from farm.errors import InvalidInput
from farm.jobs.spec import JobSpec
from farm.web.a1111.asked import ImageToImage, TextToImage
from farm.web.a1111.options import Options, Settings
from farm.web.a1111.pnginfo import settings
from farm.web.limits import Limits
from farm.web.served import Served
from tests.farm.rendering import render
from tests.farm.web.asgi import SECONDS, bearer, connected, happens
from tests.farm.web.conftest import Opening, Web
from tests.ledgers import a_worker
from tests.models_on_disk import write_weights

pytestmark = pytest.mark.anyio

API = "/sdapi/v1"
SERVED = Served(("emoji", "sd14"), "emoji")

# What each program sends of itself, recorded in its form: the names and the defaults are theirs.
OPEN_WEBUI = {"prompt": "an otter", "batch_size": 2, "width": 512, "height": 512, "steps": 20, "negative_prompt": "mud"}
SILLY_TAVERN = {
    "url": "http://localhost:7860",
    "auth": "farm:secret",
    "prompt": "an otter",
    "negative_prompt": "lowres",
    "sampler_name": "DDIM",
    "scheduler": "Automatic",
    "steps": 20,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 1.0,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "seed": None,
    "override_settings": {"CLIP_stop_at_last_layers": 2, "sd_vae": "Automatic"},
    "override_settings_restore_afterwards": True,
    "clip_skip": 2,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}
LIBRE_CHAT = {
    "prompt": "an otter, river, stones",
    "negative_prompt": "mud",
    "cfg_scale": 4.5,
    "steps": 22,
    "width": 1024,
    "height": 1024,
}


def png(**texts: str) -> bytes:
    file, info = io.BytesIO(), PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", (64, 48), "teal").save(file, "PNG", pnginfo=info)
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def answered(web: Web, client: FarmClient, asked: dict[str, Any], path: str = "txt2img") -> tuple[Any, JobSpec]:
    """The answer to a request whose jobs are rendered by a stand-in, and the first one's spec."""
    headers, before = bearer(web, "submit"), sum(client.ledger.counts().values())
    body = json.dumps(asked).encode()
    async with connected(web.site.app, f"{API}/{path}", method="POST", headers=headers, body=body) as waiting:
        await happens(lambda: sum(client.ledger.counts().values()) > before, "it is queued")
        jobs = sorted(client.ledger.newest(limit=sum(client.ledger.counts().values()) - before))
        for job in jobs:
            render(client, job)
        assert await waiting.status() == 200
        return await waiting.json(), client.ledger.spec(jobs[0])


async def test_open_webui_is_given_its_pictures(web: Web, client: FarmClient) -> None:
    told, spec = await answered(web, client, OPEN_WEBUI)
    assert told.keys() == {"images", "parameters", "info"} and isinstance(told["parameters"], dict)
    for image in told["images"]:
        assert Image.open(io.BytesIO(base64.b64decode(image, validate=True))).size == (64, 64)
    info = json.loads(told["info"])
    assert len(told["images"]) == len(info["infotexts"]) == len(info["all_seeds"]) == 2
    assert info["all_seeds"] == [spec.seed, spec.seed + 1] and info["seed"] == spec.seed
    assert info["infotexts"][1].endswith(f"Seed: {spec.seed + 1}")
    assert (info["prompt"], info["negative_prompt"], info["width"]) == ("an otter", "mud", 512)
    assert (spec.sampler, spec.schedule, spec.steps, spec.guidance.scale) == ("euler_a", "model", 20, 7.0)


async def test_what_silly_tavern_and_libre_chat_always_send_is_no_refusal(web: Web, client: FarmClient) -> None:
    told, spec = await answered(web, client, SILLY_TAVERN)
    assert len(told["images"]) == 1
    assert (spec.sampler, spec.conditioning.clip_skip, spec.conditioning.negative) == ("ddim", 2, "lowres")
    told, spec = await answered(web, client, LIBRE_CHAT)
    assert json.loads(told["info"])["infotexts"][0].split("\n").pop() == "Steps: 22, Sampler: Euler a, Seed: " + str(
        spec.seed
    )
    assert (spec.width, spec.height, spec.guidance.scale) == (1024, 1024, 4.5)


@pytest.mark.parametrize("how", ["data:image/png;base64,", ""])
async def test_a_picture_to_begin_with_comes_as_a_data_uri_or_bare(web: Web, client: FarmClient, how: str) -> None:
    asked = {
        "prompt": "in oil",
        "init_images": [how + encoded(png())],
        "denoising_strength": 0.5,
        "steps": 10,
        "resize_mode": 1,
    }
    told, spec = await answered(web, client, asked, "img2img")
    assert len(told["images"]) == 1 and "init_images" not in told["parameters"]
    assert spec.start.image and spec.start.image.width == 64
    assert (spec.mode, spec.start.step, spec.start.fit) == ("img2img", 5, "crop")


def mask(width: int = 64) -> bytes:
    """White in a corner, where the picture is redone."""
    file, made = io.BytesIO(), Image.new("L", (width, 48), "black")
    made.paste(255, (0, 0, 16, 16))
    made.save(file, "PNG")
    return file.getvalue()


async def test_a_mask_says_what_is_redone(web: Web, client: FarmClient) -> None:
    asked = {"prompt": "a hat", "init_images": [encoded(png())], "mask": "data:image/png;base64," + encoded(mask())}
    told, spec = await answered(web, client, {**asked, "inpaint_full_res_padding": 32, "mask_blur": 2}, "img2img")
    assert len(told["images"]) == 1 and "mask" not in told["parameters"]
    start = spec.start
    assert start.mask and (start.redo, start.mask_blur, start.fill, start.only_masked) == ("white", 2, "blur", 32)
    whole = {"inpaint_full_res": False, "inpainting_fill": 1, "inpainting_mask_invert": 1, "resize_mode": 2}
    _, spec = await answered(web, client, asked | whole, "img2img")
    start = spec.start
    assert (start.redo, start.mask_blur, start.fill, start.only_masked, start.fit) == (
        "black",
        4,
        "original",
        None,
        "pad",
    )
    async with web.having("submit") as http:
        assert (await refused(http, "img2img", {**asked, "mask": encoded(mask(32))})).startswith(
            "mask: the mask has 32×48"
        )
        assert (await refused(http, "img2img", {**asked, "mask": "/etc/passwd"})).startswith("mask: is not base64")
        wide = {**asked, "inpaint_full_res_padding": 10_000}
        assert (await refused(http, "img2img", wide)).startswith("inpaint_full_res_padding: ")


def fields(**asked: Any) -> dict[str, Any]:
    return TextToImage.model_validate({"prompt": "an otter", **asked}).fields(Options())


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, ("euler_a", "model")),
        ({"sampler_index": "Euler"}, ("euler", "model")),
        ({"sampler_name": "LMS", "sampler_index": "Euler"}, ("lms", "model")),
        ({"sampler_name": "DPM++ 2M Karras"}, ("dpmpp_2m", "karras")),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "automatic"}, ("dpmpp_2m", "karras")),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Exponential"}, ("dpmpp_2m", "exponential")),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, ("dpmpp_2m", "karras")),
        ({"sampler_name": "DPM++ 3M SDE"}, ("dpmpp_3m_sde", "exponential")),
        ({"sampler_name": "k_euler_a", "scheduler": None}, ("euler_a", "model")),
        ({"sampler_name": "Euler", "scheduler": "sgm_uniform"}, ("euler", "sgm_uniform")),
    ],
)
def test_samplers_and_schedulers_are_read_as_a1111_reads_them(asked: dict[str, Any], meant: tuple[str, str]) -> None:
    made = fields(**asked)
    assert (made["sampler"], made["schedule"]) == meant


def test_what_is_left_out_or_null_is_a1111_s_default_and_sizes_are_whole_cells() -> None:
    made = fields(seed=None, steps=None, cfg_scale=None, width=515, height=None, n_iter=3, batch_size=2, eta=1.0)
    assert (made["seed"], made["steps"], made["guidance"], made["width"], made["count"]) == (-1, 50, 7.0, 512, 6)
    assert "height" not in made and made["eta"] == 1.0
    assert "eta" not in fields(sampler_name="LMS", eta=1.0), "as A1111 does not mind it there"


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"enable_hr": True, "hr_upscaler": "Latent"}, "enable_hr: the farm has no hires fix"),
        ({"script_name": "X/Y/Z plot"}, "script_name: the farm has no script 'X/Y/Z plot'"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, "has no extension 'ADetailer'"),
        ({"alwayson_scripts": {"controlnet": {"args": [{"enabled": True}]}}}, "has no extension 'controlnet'"),
        ({"alwayson_scripts": {"reactor": {"args": ["…", True]}}}, "has no extension 'reactor'"),
        ({"styles": ["", "oil"]}, "styles: the farm has no style 'oil'"),
        ({"restore_faces": True}, "no restoring of faces"),
        ({"tiling": True}, "no tiling"),
        ({"subseed_strength": 0.2}, "no variations of a seed"),
        ({"seed_resize_from_w": 64, "seed_resize_from_h": 64}, "no seeds of another size"),
        ({"s_churn": 1}, "no churn"),
        ({"refiner_checkpoint": "xl", "refiner_switch_at": 0.8}, "no refiner"),
        ({"infotext": "a\nSteps: 3"}, "no reading of an infotext"),
        ({"batch_size": 20, "n_iter": 20}, "400 pictures are more than 100"),
    ],
)
def test_what_the_farm_cannot_do_is_refused_and_not_passed_over(asked: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        TextToImage.model_validate(asked).check()
    assert what in str(caught.value)


def test_what_programs_always_send_asks_for_nothing() -> None:
    TextToImage.model_validate(
        {
            "script_name": None,
            "script_args": [],
            "alwayson_scripts": {
                "ADetailer": {"args": [False]},
                "ControlNet": {"args": []},
                "controlnet": {"args": [{"enabled": False, "image": ""}]},
                "sag": {},
            },
            "enable_hr": False,
            "hr_upscaler": "Latent",
            "styles": [""],
            "subseed": -1,
            "subseed_strength": 0,
            "seed_resize_from_w": -1,
            "seed_resize_from_h": 0,
            "refiner_checkpoint": "",
            "refiner_switch_at": 0,
            "comments": {},
        }
    ).check()
    ImageToImage.model_validate({"mask": None, "mask_blur": 4, "inpainting_fill": 0, "image_cfg_scale": 1.5}).check()


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"mask": "x", "inpainting_fill": 3}, "inpainting_fill: the farm has no inpainting fill 3"),
        ({"resize_mode": 3}, "no resize mode 3"),
        ({"initial_noise_multiplier": 1.5}, "no multiplier of the noise"),
    ],
)
def test_of_pictures_too(asked: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ImageToImage.model_validate(asked).check()
    assert what in str(caught.value)


async def refused(http: httpx2.AsyncClient, path: str, asked: Any, code: int = 422) -> str:
    answer = await http.post(f"{API}/{path}", json=asked)
    told = answer.json()
    assert (answer.status_code, told.keys()) == (code, {"error", "detail", "body", "errors"}), answer.text
    return str(told["detail"])


async def test_refusals_are_told_in_a1111_s_own_form_and_words(web: Web, client: FarmClient) -> None:
    async with web.having("submit") as http, web.having("view") as viewer, web.anyone() as stranger:
        said = await refused(http, "txt2img", {"sampler_name": "DPM adaptive"})
        assert said.startswith("sampler_name: there is no sampler 'DPM adaptive'")
        said = await refused(http, "txt2img", {"scheduler": "KL Optimal"})
        assert said.startswith("scheduler: there is no schedule 'KL Optimal'")
        assert (await refused(http, "txt2img", {"cfg_scale": 1e9})).startswith("cfg_scale: ")
        assert (await refused(http, "img2img", {"init_images": [encoded(b"x")]})).startswith("init_images: the init")
        said = await refused(http, "txt2img", {"override_settings": {"sd_model_checkpoint": "emogi"}})
        assert said.endswith("there is no model 'emogi' (did you mean 'emoji'? there are: emoji)")
        assert (await refused(http, "txt2img", {"override_settings": {"sd_model_checkpoint": "xl"}})).endswith(
            "(there are: emoji)"
        )
        said = await refused(http, "txt2img", {"prompt": "a <lora:x:y>"})
        assert said.endswith(
            "has a weight that is not a number (write <\\lora:…> for the words as such, or use 'reading=plain')"
        )
        assert "sd_vae" in await refused(http, "txt2img", {"override_settings": {"sd_vae": "x.pt"}})
        assert "should be a mapping" in await refused(http, "txt2img", [])
        assert "not JSON" in (await http.post(f"{API}/txt2img", content=b"{")).json()["detail"]
        assert (await http.get(f"{API}/nothing")).json()["error"] == "NotFound"
        assert "needs 'submit'" in await refused(viewer, "txt2img", {}, 403)
        assert "needs a token" in await refused(stranger, "txt2img", {}, 401)
        assert "more than 65,536 bytes" in await refused(http, "options", {"x": "x" * 70_000}, 413)
        foreign = await http.get(f"{API}/options", headers={"Origin": "http://evil.example"})
        assert (foreign.status_code, foreign.json()["error"]) == (403, "ForeignOrigin")
        wrong = await stranger.get(f"{API}/options", headers={"Authorization": "Bearer x"})
        assert (wrong.status_code, wrong.json()["error"]) == (401, "NotSignedIn")
    assert sum(client.ledger.counts().values()) == 0


@pytest.mark.parametrize("init", ["/etc/passwd", "http://169.254.169.254/x.png", "file:///etc/passwd", "data:x", ""])
async def test_no_path_or_address_of_a_client_is_opened(web: Web, init: str) -> None:
    async with web.having("operate") as http:
        assert (await refused(http, "img2img", {"init_images": [init]})).startswith("init_images: ")
        if init:
            assert (await refused(http, "png-info", {"image": init})).startswith("image: ")
        assert "there are 0 pictures" in await refused(http, "img2img", {})
        assert "there are 2 pictures" in await refused(http, "img2img", {"init_images": [encoded(png())] * 2})


async def test_an_empty_authorization_is_no_credential_and_a_token_is_a_password(
    nowhere: FarmClient, opened: Opening
) -> None:
    async with opened(nowhere, open_to_all=True) as web, web.anyone() as http:
        for given in ("", "Basic ", "Basic", "Bearer"):
            answer = await http.get(f"{API}/samplers", headers={"Authorization": given})
            assert answer.status_code == 200, given
        wrong = await http.get(f"{API}/samplers", headers={"Authorization": "Basic " + encoded(b"a:b")})
        assert wrong.status_code == 401
        named = web.tokens.add("chat", "view")
        basic = {"Authorization": "Basic " + encoded(f"farm:{named}".encode())}
        assert (await http.get(f"{API}/samplers", headers=basic)).status_code == 200
        assert (await http.get("/internal/ping")).json() == {}


async def test_options_are_each_caller_s_own_and_come_back_whole(web: Web, client: FarmClient) -> None:
    client.ledger.announce(a_worker("w1", models=["emoji", "sd14"]))
    async with web.having("submit") as http, web.having("submit") as other:
        told = (await http.get(f"{API}/options")).json()
        assert (told["sd_model_checkpoint"], told["CLIP_stop_at_last_layers"]) == ("emoji", 1)
        assert (
            await http.post(f"{API}/options", json={**told, "sd_model_checkpoint": "SD14.safetensors [ab]"})
        ).json() == {}
        assert (await http.post(f"{API}/options", json={"CLIP_stop_at_last_layers": 2})).status_code == 200
        assert "there is no model 'xl'" in await refused(http, "options", {"sd_model_checkpoint": "xl"})
        mine, theirs = (await http.get(f"{API}/options")).json(), (await other.get(f"{API}/options")).json()
        assert (mine["sd_model_checkpoint"], mine["CLIP_stop_at_last_layers"]) == ("sd14", 2)
        assert theirs == told
        assert [model["title"] for model in (await http.get(f"{API}/sd-models")).json()] == ["emoji", "sd14"]


def test_what_is_chosen_holds_for_a_request_unless_that_overrides_it() -> None:
    chosen = Settings(sd_model_checkpoint="sd14", CLIP_stop_at_last_layers=2).over(Options(), SERVED)
    asked = TextToImage.model_validate({"override_settings": {"sd_model_checkpoint": "emoji", "unheard_of": [1]}})
    made = asked.fields(asked.override_settings.over(chosen, SERVED))
    assert (made["model"], made["clip_skip"]) == ("emoji", 2)
    assert "model" not in fields(), "the farm's own choice"


async def test_what_the_farm_has_and_has_not_is_told(web: Web, client: FarmClient) -> None:
    client.ledger.announce(a_worker("w1", embeddings=("scribble",)))
    async with web.having("view") as http:

        async def get(path: str) -> Any:
            answer = await http.get(f"{API}/{path}")
            assert answer.status_code == 200, answer.text
            return answer.json()

        samplers = await get("samplers")
        assert {"Euler a", "DPM++ 2M", "DDIM"} <= {one["name"] for one in samplers}
        assert samplers[0] == {"name": "LMS", "aliases": ["lms"], "options": {}}
        schedulers = await get("schedulers")
        assert [one["name"] for one in schedulers][:3] == ["automatic", "karras", "exponential"]
        for one in schedulers:
            assert fields(sampler_name="Euler", scheduler=one["name"]) == fields(
                sampler_name="Euler", scheduler=one["label"]
            )
        assert [one["name"] for one in await get("upscalers")] == ["None"]
        assert (await get("embeddings"))["loaded"].keys() == {"scribble"}
        assert await get("scripts") == {"txt2img": [], "img2img": []}
        for path in ("sd-vae", "latent-upscale-modes", "prompt-styles", "hypernetworks", "face-restorers"):
            assert await get(path) == []
        assert (await get("memory")).keys() == {"ram", "cuda"}
        assert (await get("cmd-flags"))["api"] is True
        assert (await http.post(f"{API}/refresh-checkpoints")).json() == {}


async def test_loras_are_told_and_named_in_prompts(web: Web, client: FarmClient, tmp_path: Path) -> None:
    shapes = {"lora_unet_conv_in.lora_down.weight": (4, 4), "lora_unet_conv_in.lora_up.weight": (320, 4)}
    lora = add(client.ledger, client.storage, "detail", str(write_weights(tmp_path / "a.safetensors", shapes))).lora
    try:
        async with web.having("submit") as http:
            [told] = (await http.get(f"{API}/loras")).json()
            assert (told["name"], told["alias"]) == ("detail", "detail")
            assert "keeps no LoRA 'detial'" in await refused(http, "txt2img", {"prompt": "an otter <lora:detial:1>"})
        _, spec = await answered(web, client, {"prompt": "an otter <lora:detail:0.8>"})
        assert [(use.sha256, use.unet) for use in spec.loras] == [(lora.file.sha256, 0.8)]
    finally:
        remove(client.ledger, client.storage, "detail", force=True)


async def test_progress_is_the_caller_s_own_and_shows_how_it_looks(web: Web, client: FarmClient) -> None:
    headers = bearer(web, "submit")
    body = json.dumps({"prompt": "an otter", "steps": 20, "n_iter": 2, "force_task_id": "task(x)"}).encode()
    async with web.anyone(headers=headers) as http, web.having("operate") as other:
        idle = (await http.get(f"{API}/progress")).json()
        assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)
        async with connected(web.site.app, f"{API}/txt2img", method="POST", headers=headers, body=body) as waiting:
            await happens(lambda: client.ledger.counts()["queued"] == 2, "they are queued")
            queued = (await http.post("/internal/progress", json={"id_task": "task(x)"})).json()
            assert (queued["active"], queued["queued"], queued["completed"]) == (False, True, False)
            jobs = sorted(client.ledger.newest())
            claim = client.ledger.claim(jobs[0], "w1")
            assert claim
            client.ledger.renew("w1", [(jobs[0], claim.attempt, 10)])
            picture = Image.linear_gradient("L").resize((12, 8)).convert("RGB")
            client.storage.put(keys.preview(jobs[0]), Preview(jobs[0], 1, 10, (96, 64), picture).to_png(), "image/png")
            told: dict[str, Any] = {}

            async def half_way() -> bool:
                told.update((await http.get(f"{API}/progress")).json())
                return bool(told["state"]["sampling_step"] == 10 and told["current_image"])

            async with asyncio.timeout(SECONDS):
                while not await half_way():
                    await asyncio.sleep(0.05)
            assert told["progress"] == pytest.approx(0.25) and told["eta_relative"] > 0
            assert (told["state"]["job_count"], told["state"]["job_no"], told["state"]["job"]) == (2, 0, "task(x)")
            assert Image.open(io.BytesIO(base64.b64decode(told["current_image"]))).size == (96, 64)
            shown = (await http.get(f"{API}/progress", params={"skip_current_image": True})).json()
            assert shown["current_image"] is None
            of_task = (await http.post("/internal/progress", json={"id_task": "task(x)"})).json()
            assert of_task["active"] and of_task["live_preview"].startswith("data:image/png;base64,")
            again = {"id_task": "task(x)", "id_live_preview": of_task["id_live_preview"]}
            assert (await http.post("/internal/progress", json=again)).json()["live_preview"] is None
            assert (await other.get(f"{API}/progress")).json()["state"]["job_count"] == 0
            assert (await other.post(f"{API}/interrupt")).json() == {}
            assert client.ledger.counts()["cancelled"] == 0, "another's is not theirs to end"

            client.ledger.release(claim, "w1")
            render(client, jobs[1])
            assert (await http.post(f"{API}/skip")).json() == {}
            assert await waiting.status() == 200
            answer = await waiting.json()
        assert len(answer["images"]) == 1 and client.ledger.get(jobs[0]).state == "cancelled"
        assert (await http.get(f"{API}/progress")).json()["state"]["job_count"] == 0


async def test_who_waits_in_vain_is_told_why(web: Web, client: FarmClient) -> None:
    client.ledger.announce(a_worker("w1", models=["emoji"], drained=True, paused="drained by an operator"))
    headers = bearer(web, "submit")
    body = json.dumps({"prompt": "an otter", "steps": 20, "force_task_id": "task(x)"}).encode()

    async def told() -> list[str | None]:
        of_all = await http.get(f"{API}/progress")
        of_task = await http.post("/internal/progress", json={"id_task": "task(x)"})
        return [answer.json()["textinfo"] for answer in (of_all, of_task)]

    async with web.anyone(headers=headers) as http:
        assert await told() == [None, None]
        async with connected(web.site.app, f"{API}/txt2img", method="POST", headers=headers, body=body) as waiting:
            await happens(lambda: client.ledger.counts()["queued"] == 1, "it is queued")
            drained = "every worker that serves the model 'emoji' is drained by an operator"
            async with asyncio.timeout(SECONDS):
                while not all(line and line.startswith(drained) for line in await told()):
                    await asyncio.sleep(0.05)
            client.ledger.announce(a_worker("w1", models=["emoji"]))
            async with asyncio.timeout(SECONDS):
                while await told() != ["Waiting..."] * 2:
                    await asyncio.sleep(0.05)
            assert (await http.post(f"{API}/interrupt")).json() == {}
            assert await waiting.status() == 200


async def test_an_interrupted_request_is_answered_with_what_is_done(web: Web, client: FarmClient) -> None:
    headers = bearer(web, "submit")
    body = json.dumps({"prompt": "an otter", "batch_size": 3, "seed": 5, "width": 64}).encode()
    async with (
        web.anyone(headers=headers) as http,
        connected(web.site.app, f"{API}/txt2img", method="POST", headers=headers, body=body) as waiting,
    ):
        await happens(lambda: client.ledger.counts()["queued"] == 3, "they are queued")
        assert (await http.post(f"{API}/interrupt")).json() == {}
        assert await waiting.status() == 200
        told = await waiting.json()
    assert told["images"] == [] and json.loads(told["info"])["seed"] == 5
    assert client.ledger.counts()["cancelled"] == 3


async def test_who_interrupts_what_is_being_submitted_ends_it_too(
    web: Web, client: FarmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on, submit = threading.Event(), threading.Event(), client.submit

    def slowly(*drafts: Any) -> Any:
        begun.set()
        assert goes_on.wait(SECONDS)
        return submit(*drafts)

    monkeypatch.setattr(client, "submit", slowly)
    headers = bearer(web, "submit")
    async with (
        web.anyone(headers=headers) as http,
        connected(web.site.app, f"{API}/txt2img", method="POST", headers=headers, body=b'{"prompt": "x"}') as waiting,
    ):
        await happens(begun.is_set, "it is being submitted")
        assert (await http.post(f"{API}/interrupt")).json() == {}
        goes_on.set()
        assert await waiting.status() == 200
        assert (await waiting.json())["images"] == []
    assert client.ledger.counts()["cancelled"] == 1


async def test_who_waits_holds_no_thread(web: Web, client: FarmClient) -> None:
    headers, number = bearer(web, "submit"), 24
    async with AsyncExitStack() as stack, web.anyone(headers=headers) as http:
        for _ in range(number):
            post: dict[str, Any] = {"method": "POST", "headers": headers, "body": b'{"prompt": "an otter"}'}
            await stack.enter_async_context(connected(web.site.app, f"{API}/txt2img", **post))
        await happens(lambda: len(web.site.parts.hub._followers) == number, "all of them wait")
        await happens(lambda: not (web.site.parts.bucket.is_busy or web.site.parts.ledger.is_busy), "and nothing else")
        assert (await http.get(f"{API}/progress")).json()["state"]["job_count"] == number
        assert (await http.post(f"{API}/interrupt")).json() == {}
    assert client.ledger.counts()["cancelled"] == number


async def test_who_goes_away_cancels_and_who_waits_too_long_is_told(client: FarmClient, opened: Opening) -> None:
    async with opened(client, limits=Limits(wait_seconds=0.2)) as web, web.having("submit") as http:
        client.ledger.announce(a_worker("w1", models=["emoji"], drained=True, paused="drained by an operator"))
        await web.site.parts.workers()
        said = await refused(http, "txt2img", {"prompt": "an otter"}, 504)
        assert "was not rendered in time" in said and "is drained by an operator" in said
        await happens(lambda: client.ledger.counts()["cancelled"] == 1, "nobody can come back for it")
    async with opened(client) as web:
        body = json.dumps({"prompt": "an otter"}).encode()
        async with connected(
            web.site.app, f"{API}/txt2img", method="POST", headers=bearer(web, "submit"), body=body
        ) as own:
            await happens(lambda: client.ledger.counts()["queued"] == 1, "it is queued")
            own.gone.set()
            await happens(lambda: client.ledger.counts()["cancelled"] == 2, "it is cancelled")


async def test_a_job_that_fails_is_told_and_so_is_too_much(client: FarmClient, opened: Opening) -> None:
    async with opened(client, limits=Limits(streams=1)) as web:
        headers = bearer(web, "submit")
        body = json.dumps({"prompt": "an otter"}).encode()
        async with connected(web.site.app, f"{API}/txt2img", method="POST", headers=headers, body=body) as waiting:
            await happens(lambda: client.ledger.counts()["queued"] == 1, "it is queued")
            async with web.anyone(headers=headers) as http:
                assert "1 streams are open" in await refused(http, "txt2img", {"prompt": "a cat"}, 429)
            claim = client.ledger.claim(client.ledger.newest()[0], "w1")
            assert claim
            error = json.dumps({"kind": "nan", "message": "the picture is not a number"})
            assert client.ledger.finish(claim, "w1", "failed", {"error": error})
            assert await waiting.status() == 500
            assert "failed: the picture is not a number" in (await waiting.json())["detail"]
    assert sum(client.ledger.counts().values()) == 1


async def test_a_png_s_text_is_told_as_it_is(web: Web) -> None:
    text = 'an otter\nin a river\nNegative prompt: mud\nSteps: 20, Sampler: Euler a, Size: 96x64, Model: "a, b"'
    async with web.having("view") as http:

        async def info(data: bytes) -> Any:
            answer = await http.post(f"{API}/png-info", json={"image": "data:image/png;base64," + encoded(data)})
            assert answer.status_code == 200, answer.text
            return answer.json()

        told = await info(png(parameters=text, workflow="{}"))
        assert (told["info"], told["items"]) == (text, {"workflow": "{}"})
        assert told["parameters"] == {
            "Prompt": "an otter\nin a river",
            "Negative prompt": "mud",
            "Steps": "20",
            "Sampler": "Euler a",
            "Size": "96x64",
            "Size-1": "96",
            "Size-2": "64",
            "Model": "a, b",
        }
        assert await info(b"no picture") == {
            "info": "",
            "items": {},
            "parameters": {"Prompt": "", "Negative prompt": ""},
        }
        bomb = PngInfo()
        bomb.add(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(2**24)))
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=bomb)
        assert (await info(file.getvalue()))["info"] == ""


def test_a_last_line_that_only_looks_like_settings_is_a_prompt() -> None:
    assert settings("a cat\nratio 3:4, sharp")["Prompt"] == "a cat\nratio 3:4, sharp"
    assert settings("x " * 100_000)["Negative prompt"] == ""

"""The clients of other programs, as they are, against a site with a real worker: `webuiapi` and `openai`."""

from __future__ import annotations

import base64
import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import webuiapi
from PIL import Image

from farm.client import FarmClient
from farm.jobs.spec import JobSpec
from farm.pictures.provenance import spec_in
from farm.web.tokens import Tokens
from tests.waiting import eventually

SECONDS = 120
ENDLESS = 1_000
"""Steps of a job that is meant to be caught in the middle: a second at the very least, and then it is cancelled."""


@pytest.fixture(scope="module")
def address(environment: dict[str, str], home: Path) -> Iterator[tuple[str, str]]:
    """Where a `farm web` of this farm is, and a token for it."""
    tokens = Tokens(home)
    token = tokens.add("chat", "submit")
    command = [sys.executable, "-m", "farm", "web", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        try:
            yield found[0].rstrip("/"), token
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
            tokens.remove("chat")


@pytest.fixture
def webui(address: tuple[str, str]) -> webuiapi.WebUIApi:
    """A program for A1111, with the token as a password."""
    url, token = address
    return webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", username="chat", password=token, steps=5)


@pytest.fixture
def images(address: tuple[str, str]) -> Iterator[openai.OpenAI]:
    """A program for OpenAI's API."""
    url, token = address
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token, timeout=SECONDS, max_retries=0) as made:
        yield made


def newest(client: FarmClient) -> JobSpec:
    return client.ledger.spec(client.ledger.newest(limit=1)[0])


@pytest.mark.usefixtures("worker")
def test_webuiapi_draws_and_reads_what_a_picture_says(webui: webuiapi.WebUIApi, client: FarmClient) -> None:
    assert "tiny" in webui.util_get_model_names()
    assert {"Euler a", "LMS"} <= set(webui.util_get_sampler_names()) and "karras" in webui.util_get_scheduler_names()
    options = webui.get_options()
    assert webui.set_options({**options, "sd_model_checkpoint": "tiny"}) == {}
    assert webui.util_get_current_model() == "tiny"

    made = webui.txt2img(prompt="a cat", negative_prompt="mud", seed=7, width=64, height=64, batch_size=2)
    assert [image.size for image in made.images] == [(64, 64)] * 2
    assert made.info["all_seeds"] == [7, 8] and made.info["sd_model_name"] == "tiny"
    assert (newest(client).sampler, newest(client).steps, newest(client).eta) == ("euler_a", 5, 1.0)
    told = webui.png_info(made.image)
    assert told.info == made.info["infotexts"][0] and "Negative prompt: mud" in told.info
    assert told.parameters["Seed"] == "7" and told.parameters["Size-1"] == "64"

    again = webui.img2img(images=[made.image], prompt="a dog", seed=9, width=64, height=64, denoising_strength=0.4)
    assert again.image.size == (64, 64) and newest(client).start.step == 3
    mask = Image.new("L", (64, 64), "black")
    mask.paste(255, (0, 0, 32, 64))
    kept = webui.img2img(images=[made.image], mask_image=mask, mask_blur=0, prompt="a dog", width=64, height=64)
    right = (32, 0, 64, 64)
    assert kept.image.crop(right).tobytes() == made.image.crop(right).tobytes()
    assert kept.image.tobytes() != made.image.tobytes()
    with pytest.raises(RuntimeError, match="hires fix"):
        webui.txt2img(prompt="a cat", enable_hr=True)


@pytest.mark.usefixtures("worker")
def test_webuiapi_follows_and_interrupts(webui: webuiapi.WebUIApi, client: FarmClient) -> None:
    assert webui.get_progress()["state"]["job_count"] == 0
    webui.set_options({"sd_model_checkpoint": "tiny"})
    with ThreadPoolExecutor(1) as pool:
        asked: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": ENDLESS, "batch_size": 8}
        drawing = pool.submit(webui.txt2img, **asked)

        def begun() -> Any:
            told = webui.get_progress()
            return told if told["state"]["sampling_step"] and told["current_image"] else None

        told = eventually(begun, "it is seen as it takes shape")
        assert told["state"]["job_count"] == 8 and 0 < told["progress"] < 1
        assert Image.open(io.BytesIO(base64.b64decode(told["current_image"]))).size == (64, 64)
        assert webui.interrupt() == {}
        made = drawing.result(SECONDS)
    assert len(made.images) < 8 and client.ledger.counts()["cancelled"] > 0
    webui.util_wait_for_ready(check_interval=0.05)


@pytest.mark.usefixtures("worker")
def test_openai_draws_edits_and_links(images: openai.OpenAI, client: FarmClient) -> None:
    assert "tiny" in [model.id for model in images.models.list()]
    more = {"steps": 5, "seed": 7, "negative_prompt": "mud"}
    made = images.images.generate(model="tiny", prompt="a cat", size="64x64", n=2, extra_body=more)
    assert made.data and made.output_format == "png" and made.size == "64x64"
    files = [base64.b64decode(one.b64_json or "") for one in made.data]
    specs = [spec_in(file) for file in files]
    assert [(spec.seed, spec.conditioning.negative) for spec in specs if spec] == [(7, "mud"), (8, "mud")]

    edited = images.images.edit(
        image=io.BytesIO(files[0]), prompt="a dog", model="tiny", output_format="jpeg", extra_body={"steps": 5}
    )
    assert edited.data and Image.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json or ""))).format == "JPEG"
    assert newest(client).start.image

    linked = images.images.generate(model="tiny", prompt="a cat", size="64x64", response_format="url", extra_body=more)
    assert linked.data and linked.data[0].url
    assert httpx2.get(linked.data[0].url).content == files[0], "of the same seed, and without a token"
    with pytest.raises(openai.BadRequestError, match="'big' is no size") as caught:
        images.images.generate(model="tiny", prompt="a cat", size="big")
    assert (caught.value.param, caught.value.code) == ("size", "invalid_input")
    with pytest.raises(openai.AuthenticationError):
        images.with_options(api_key="wrong").models.list()


@pytest.mark.usefixtures("worker")
def test_openai_streams_partial_pictures_and_who_leaves_cancels(images: openai.OpenAI, client: FarmClient) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "a cat", "size": "64x64", "stream": True}
    for event in images.images.generate(**asked, partial_images=2, extra_body={"steps": 5}):
        assert Image.open(io.BytesIO(base64.b64decode(event.b64_json))).size == (64, 64) and event.size == "64x64"
    assert event.type == "image_generation.completed"

    before = client.ledger.counts()["cancelled"]
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(image, "PNG")
    edit: dict[str, Any] = {**asked, "image": image.getvalue(), "partial_images": 3}
    with images.images.edit(**edit, n=2, extra_body={"steps": ENDLESS}) as stream:
        partial = next(stream)
    assert partial.type == "image_edit.partial_image" and partial.partial_image_index == 0
    assert Image.open(io.BytesIO(base64.b64decode(partial.b64_json))).size == (64, 64)
    eventually(lambda: client.ledger.counts()["cancelled"] == before + 2, "what only it waited for is cancelled")

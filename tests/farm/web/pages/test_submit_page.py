"""Submitting in a real browser: a prompt is enough, all can be said that the command takes, and faults are told."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from farm import keys
from farm.bucket.preview import Preview
from farm.bucket.storage import Storage
from farm.client import FarmClient, models
from farm.jobs.request import JobRequest
from tests.farm.rendering import render
from tests.farm.web.pages.conftest import PHONE, Said, Show
from tests.farm.web.pages.test_queue_page import HOSTILE, begun
from tests.ledgers import a_worker
from tests.models_on_disk import write_folder
from tests.waiting import eventually

pytestmark = pytest.mark.long

DROP = """(form, picture) => {
    const bytes = Uint8Array.from(atob(picture), (sign) => sign.charCodeAt(0));
    const dropped = new DataTransfer();
    dropped.items.add(new File([bytes], "mine.png", { type: "image/png" }));
    form.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
}"""


def field(page: Page, name: str) -> Locator:
    """The field of the mode that is chosen."""
    return page.locator(f".field[data-name='{name}']:not([hidden])")


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    return file.getvalue()


def test_a_prompt_is_enough_and_its_picture_comes_right_there(show: Show, client: FarmClient, storage: Storage) -> None:
    client.ledger.announce(a_worker("w1"))
    page = show("/submit", "submit")
    page.keyboard.type(f"an otter {HOSTILE}".replace("\x1b", ""))
    page.keyboard.press("Control+Enter")
    card = page.locator(".card")
    expect(card).to_have_attribute("data-state", "queued")
    [job] = client.ledger.newest()
    assert client.ledger.get(job).prompt.startswith("an otter </script>")

    claim = begun(client, job, 12)
    look = Preview(job, claim.attempt, 12, (128, 128), Image.new("RGB", (16, 16), "teal"))
    storage.put(keys.preview(job), look.to_png(), "image/png")
    expect(card.locator(".shot img")).to_have_attribute("data-step", "12")
    client.ledger.release(claim, "w1")
    render(client, job)
    expect(card).to_have_attribute("data-state", "done")
    expect(card.locator("img[src*='image.png']")).to_be_visible()


def test_models_are_offered_that_are_served_or_kept(show: Show, client: FarmClient, tmp_path: Path) -> None:
    client.ledger.announce(a_worker("w1", models=["served"]))
    client.check_bucket()
    models.add(client.ledger, client.storage, "kept", str(write_folder(tmp_path)), replace=True)
    client.submit([JobRequest.parse({"prompt": "an otter", "model": "nobodys"})])
    page = show("/submit")

    def offered() -> list[str]:
        page.reload()
        return field(page, "model").locator("option").all_text_contents()

    try:
        expected = ["served", "kept – no live worker serves it"]
        eventually(lambda: offered() == expected, "the site has seen what is served and what is kept")
    finally:
        models.remove(client.ledger, client.storage, "kept")


def test_faults_are_told_beside_their_field_and_the_command_is_always_there(show: Show, client: FarmClient) -> None:
    page = show("/submit")
    command, render_button = page.locator("#command"), page.locator("#render")
    render_button.click()
    expect(field(page, "prompt").locator(".fault")).to_have_text("Missing argument 'PROMPT'.")
    field(page, "prompt").get_by_role("textbox").fill("a cat")
    expect(page.locator(".fault:visible")).to_have_count(0)
    page.get_by_text("Picture", exact=True).click()
    field(page, "steps").get_by_role("spinbutton").fill("0")
    expect(field(page, "steps").locator(".fault")).to_have_text("0: input should be greater than or equal to 1")
    expect(command).to_have_text("farm submit txt2img 'a cat' --steps 0")
    render_button.click()
    expect(field(page, "steps").get_by_role("spinbutton")).to_be_focused()
    assert client.ledger.newest() == []

    field(page, "steps").get_by_role("spinbutton").fill("20")
    page.get_by_label("grid", exact=True).check()
    field(page, "x").get_by_role("textbox").fill("guidance=1,3,7.5")
    field(page, "y").get_by_role("textbox").fill("prompt=cat,dog")
    expect(render_button).to_have_text("Render 6 pictures")
    expect(command).to_have_text("farm submit grid 'a cat' --x guidance=1,3,7.5 --y prompt=cat,dog --steps 20")
    render_button.click()
    expect(page.locator(".card")).to_have_count(6)
    told = client.ledger.get_many(client.ledger.newest())
    assert {status.labels["grid.y"] for status in told} == {"prompt=cat", "prompt=dog"}
    assert {(status.steps, status.prompt) for status in told} == {(20, "a cat"), (20, "a dog")}


def test_a_picture_is_dropped_seen_and_sent_along(show: Show, client: FarmClient, storage: Storage) -> None:
    page = show("/submit")
    field(page, "prompt").get_by_role("textbox").fill("the same in oil")
    page.locator("#form").evaluate(DROP, base64.b64encode(png()).decode())
    page.get_by_label("img2img", exact=True).check()
    expect(field(page, "init").locator("img")).to_be_visible()
    field(page, "strength").get_by_role("spinbutton").fill("0.5")
    expect(page.locator("#command")).to_have_text(
        "farm submit img2img 'the same in oil' --init mine.png --strength 0.5"
    )
    page.locator("#render").click()
    expect(page.locator(".card")).to_have_count(1)
    [job] = client.ledger.newest()
    start = client.ledger.spec(job).start
    assert start.image and (start.image.sha256, start.step) == (hashlib.sha256(png()).hexdigest(), 15)

    render(client, job)
    page.goto(f"/submit?again={job}")
    expect(page.locator("#command")).to_contain_text(re.compile(f"--init {job}.png .*--start-step 15"))
    expect(field(page, "init").locator("img")).to_be_visible()
    field(page, "init").get_by_role("button", name="Remove").click()
    page.locator("#render").click()
    expect(page.locator(".fault:visible")).to_contain_text("img2img needs an init image: give --init FILE")


def test_nobody_is_shut_out_and_a_phone_needs_no_scrolling_to_the_side(
    show: Show, client: FarmClient, said: Said
) -> None:
    for scheme, options in (("light", {}), ("dark", {"viewport": PHONE})):
        page = show("/submit", color_scheme=scheme, **options)
        for summary in page.locator("summary:visible").all():
            summary.click()
        for mode in ("guided", "mix", "grid", "roundtrip", "img2img"):
            page.get_by_label(mode, exact=True).check()
        page.locator("#render").click()
        expect(page.locator(".fault:visible")).to_have_count(1)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")

    page = show("/submit", "view")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("has the role 'view', and this needs 'submit'"))
    said.lines.clear()

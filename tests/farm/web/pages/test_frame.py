"""What all pages have, in a real browser: the door, the theme, errors in words; and nobody is shut out of any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from farm.client import FarmClient, loras
from farm.client import models as keeping
from tests.farm.rendering import render
from tests.farm.web.pages.conftest import PHONE, Pages, Said, Show
from tests.farm.web.pages.test_queue_page import HOSTILE, begun, submitted
from tests.ledgers import a_worker
from tests.models_on_disk import write_folder, write_weights

pytestmark = pytest.mark.long

PAPER = "getComputedStyle(document.body).backgroundColor"
OF_COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
"""Which of the rules that axe goes by of itself are about colours."""


@pytest.fixture
def places(client: FarmClient) -> list[str]:
    """Pages of a farm with jobs of every state, whose words are hostile, and a worker."""
    done, failed, running, queued = (submitted(client, prompt=HOSTILE)[0] for _ in range(4))
    render(client, done)
    error = json.dumps({"kind": "nan", "message": HOSTILE * 3})
    client.ledger.finish(begun(client, failed, 3), "w1", "failed", {"error": error})
    begun(client, running, 11)
    client.ledger.announce(a_worker("w" * 60, device=HOSTILE.replace("\x1b", ""), paused=HOSTILE, warm=("emoji",)))
    return ["/", *(f"/jobs/{job}" for job in (done, failed, running, queued)), "/workers", "/login"]


def settled(page: Page) -> None:
    """Wait until scripts have done what they do at first."""
    page.wait_for_load_state("load")
    expect(page.locator("#theme")).to_be_visible()


def test_no_page_shuts_anybody_out(show: Show, places: list[str]) -> None:
    """Between light and dark nothing differs but the colours."""
    page = show(places[0], color_scheme="light")
    for place in places:
        page.goto(place)
        settled(page)
        light, paper = Axe().run(page), page.evaluate(PAPER)
        assert light.violations_count == 0, f"{place}: {light.generate_report()}"
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(PAPER) != paper
        dark = Axe().run(page, options={"runOnly": OF_COLOURS})
        assert dark.violations_count == 0, f"{place}, dark: {dark.generate_report()}"
        page.emulate_media(color_scheme="light")


def test_a_phone_needs_no_scrolling_to_the_side(show: Show, places: list[str]) -> None:
    page = show(places[0], viewport=PHONE)
    for place in places:
        page.goto(place)
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], place


def test_who_is_not_known_comes_in_by_the_door_and_goes_out_again(
    show: Show, client: FarmClient, pages: Pages, said: Said
) -> None:
    [job] = submitted(client)
    token = pages.access.tokens.add("guest", "submit")
    page = show(f"/jobs/{job}?x=1", None)
    assert page.locator("nav").count() == 0
    page.get_by_label("The code, or a token").fill("guess")
    page.get_by_role("button", name="Come in").click()
    expect(page.get_by_role("alert")).to_contain_text("neither a token of this site's nor a code")
    page.goto(f"/jobs/{job}?x=1")
    page.get_by_label("The code, or a token").fill(f" {token} ")
    page.get_by_role("button", name="Come in").click()
    expect(page).to_have_url(re.compile(rf"/jobs/{job}\?x=1$"))
    expect(page.locator(".who")).to_have_text("guest")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/login$"))
    refused = [re.findall(r"40\d", line)[0] for line in said.lines]  # in the browser's own words
    assert refused[:3] == ["401", "403", "401"]
    assert {*refused[3:]} <= {"401"}, "of what the page had asked for just before"
    said.lines.clear()


def test_a_theme_that_was_chosen_stays_and_an_error_has_the_words_of_the_command(show: Show, said: Said) -> None:
    page = show("/", color_scheme="light")
    light = page.evaluate(PAPER)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(PAPER)
    assert dark != light
    page.goto("/jobs/0000000000000000-0000")
    assert page.evaluate(PAPER) == dark
    expect(page.get_by_role("alert")).to_contain_text("there is no job 0000000000000000-0000")
    expect(page.get_by_role("alert")).to_contain_text("'farm list' shows the jobs of this farm")
    said.lines.clear()


def test_a_model_is_removed_by_who_may_once_that_is_confirmed(
    show: Show, client: FarmClient, tmp_path: Path, said: Said
) -> None:
    write_folder(tmp_path)
    client.check_bucket()
    keeping.add(client.ledger, client.storage, "mine", str(tmp_path), replace=True)
    submitted(client, model="mine")
    page = show("/workers", "submit")
    assert page.get_by_role("button", name="Remove").count() == 0
    page = show("/workers")
    row = page.get_by_role("row").filter(has_text="mine")
    for answer in ("Keep it", "Remove it"):
        row.get_by_role("button", name="Remove mine").click()
        page.get_by_role("button", name=answer).click()
    expect(page.locator(".toast")).to_contain_text("1 job waits for the model 'mine'")
    row.get_by_role("button", name="Remove mine").click()
    page.get_by_label("Even though jobs wait for it").check()
    page.get_by_role("button", name="Remove it").click()
    expect(page.locator(".toast").last).to_contain_text("mine is removed")
    expect(row).to_contain_text("no")
    assert len(said.lines) == 1 and "409" in said.lines[0], "the browser's own words"
    said.lines.clear()


def test_a_lora_is_told_and_removed(show: Show, client: FarmClient, tmp_path: Path) -> None:
    shapes = {"lora_unet_conv_in.lora_down.weight": (4, 4), "lora_unet_conv_in.lora_up.weight": (320, 4)}
    file = write_weights(tmp_path / "detail.safetensors", shapes)
    client.check_bucket()
    loras.add(client.ledger, client.storage, "detail", str(file), replace=True)
    page = show("/workers")
    row = page.get_by_role("row").filter(has_text="detail")
    expect(row).to_contain_text(str(file))
    row.get_by_role("button", name="Remove detail").click()
    page.get_by_role("button", name="Remove it").click()
    expect(page.locator(".toast").last).to_contain_text("detail is removed")
    expect(row).to_have_count(0)

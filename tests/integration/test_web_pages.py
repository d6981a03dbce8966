"""The pages with a real worker: a job is seen in the queue as it takes shape, and its page has what it left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from farm.client import FarmClient
from tests.browsers import chromium, needs_chromium
from tests.integration.conftest import LONG

MILLISECONDS = 120_000

pytestmark = needs_chromium


@pytest.fixture
def address(environment: dict[str, str]) -> Iterator[str]:
    """A `farm web` of this farm."""
    command = [sys.executable, "-m", "farm", "web", "--port", "0", "--no-auth"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as process:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        try:
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


@pytest.mark.usefixtures("worker")
def test_a_job_is_seen_from_its_first_steps_to_its_picture(
    address: str, submit: Callable[..., list[str]], client: FarmClient
) -> None:
    said: list[str] = []
    with chromium() as browser:
        page = browser.new_page(base_url=address)
        page.on("console", lambda message: said.append(f"{message.text} {message.location.get('url')}"))
        page.goto("/workers")
        expect(page.locator("#workers")).to_contain_text("tiny")
        expect(page.locator("#workers")).to_contain_text(re.compile(r"rows of a step\d+ of \d+"), timeout=MILLISECONDS)
        expect(page.get_by_role("meter", name="Host memory in use")).to_be_visible(timeout=MILLISECONDS)
        page.goto("/")
        [job] = submit(**LONG, trace="frames")
        row = page.locator(f"[id='{job}']")
        expect(row).to_have_attribute("data-state", "running", timeout=MILLISECONDS)
        expect(row.locator(".steps")).to_have_text(re.compile(r"step \d+ of 100 · "), timeout=MILLISECONDS)
        expect(row.locator(".shot img")).to_have_js_property("naturalWidth", 8, timeout=MILLISECONDS)
        expect(row.locator(".when")).to_have_text(re.compile("about .* left"))

        row.locator(".prompt").click()
        expect(page.locator(".shot img")).to_be_visible(timeout=MILLISECONDS)
        expect(page.locator("#picture")).to_have_js_property("naturalWidth", 64, timeout=MILLISECONDS)
        page.get_by_text("Show prompts and tokens").click()
        expect(page.frame_locator("iframe").locator("#frames > li")).to_have_count(100, timeout=MILLISECONDS)
    others = re.compile(rf"/jobs/(?!{job})")  # jobs that another test has spoilt are in the queue as well
    assert [line for line in said if not others.search(line)] == []
    assert client.ledger.get(job).state == "done"


@pytest.mark.usefixtures("worker")
def test_a_picture_is_asked_for_with_a_prompt_alone_and_found_again(address: str) -> None:
    said: list[str] = []
    with chromium() as browser:
        page = browser.new_page(base_url=address)
        page.on("console", lambda message: said.append(message.text))
        page.goto("/submit")
        page.keyboard.type("an otter, found again")
        page.get_by_role("button", name="Render").click()
        picture = page.locator(".card img[src*='image.png']")
        expect(picture).to_have_js_property("naturalWidth", 64, timeout=MILLISECONDS)
        page.goto("/gallery?q=otter again")
        expect(page.locator(".cell img:visible")).to_have_js_property("naturalWidth", 64, timeout=MILLISECONDS)
        page.locator(".cell").click()
        expect(page.get_by_role("dialog")).to_contain_text("an otter, found again")
    assert said == []

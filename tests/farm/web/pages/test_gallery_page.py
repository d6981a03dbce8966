"""The gallery in a real browser: a wall of any number of pictures, searched, looked at, compared and sent on."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, Route, expect

from farm import keys
from farm.client import FarmClient
from farm.client.forget import forget
from farm.jobs.request import JobRequest
from farm.web.index.database import Writer
from farm.web.index.index import FILE
from tests.benchmarks.gallery import made_up
from tests.farm.rendering import render
from tests.farm.web.pages.conftest import PHONE, Pages, Said, Show
from tests.farm.web.pages.test_queue_page import HOSTILE

pytestmark = pytest.mark.long

MANY = 3_000


@pytest.fixture
def batch(client: FarmClient) -> list[str]:
    """Four pictures, the newest of them last, in a batch of their own."""
    fields: list[dict[str, Any]] = [
        {"prompt": HOSTILE, "labels": {"project": '"><b>otters</b>'}},
        {"prompt": "a fox in the snow", "steps": 20},
        {"prompt": "an otter by a lake", "negative": "blurry", "labels": {"project": "otters"}},
        {"prompt": "an otter, asleep", "sampler": "euler"},
    ]
    requests = [JobRequest.parse({"seed": 7, "model": "emoji", "width": 64, "height": 64, **one}) for one in fields]
    jobs = client.submit(requests).jobs
    for job in jobs:
        render(client, job)
    return [*jobs]


def of(batch: list[str], words: str = "") -> str:
    return f"/gallery?q=batch:{keys.batch_of(batch[0])}%20{words}"


def cells(page: Page) -> Any:
    return page.locator(".cell:visible")


def test_pictures_are_searched_looked_at_by_keys_compared_and_sent_on(show: Show, batch: list[str], said: Said) -> None:
    page = show(of(batch))
    expect(page.locator("#found")).to_have_text("4 pictures")
    expect(page.locator(".cell img:visible")).to_have_count(4)
    page.get_by_label("Search pictures").fill(f"batch:{keys.batch_of(batch[0])} lake ott")
    expect(page.locator("#found")).to_have_text("1 picture")
    expect(page).to_have_url(re.compile("q=batch"))
    page.get_by_label("Search pictures").fill("seed:x")
    expect(page.locator("#fault")).to_have_text("seed: 'x' is not a whole number – such as seed:7")
    said.lines.clear()  # the browser's own words of the 422

    page.goto(of(batch))
    cells(page).first.click()
    box = page.get_by_role("dialog", name="Picture")
    expect(box).to_contain_text("an otter, asleep")
    page.keyboard.press("ArrowRight")
    expect(box).to_contain_text("an otter by a lake")
    expect(box.locator("dl")).to_contain_text("blurry")
    expect(box.get_by_role("link", name="project=otters")).to_be_visible()
    with page.expect_download() as downloaded:
        page.keyboard.press("d")
    assert downloaded.value.suggested_filename == f"{batch[2]}.png"
    with Image.open(downloaded.value.path()) as kept:
        assert kept.size == (64, 64)
    page.keyboard.press("c")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("c")
    pair = page.get_by_role("dialog", name="Two pictures compared")
    expect(pair.get_by_role("row")).to_contain_text(["Differs", "Prompt", "Negative", "Sampler", "Job", "project"])
    pair.get_by_role("slider").fill("20")
    assert page.locator("#two").evaluate("(two) => two.style.getPropertyValue('--share')") == "20%"
    pair.get_by_role("button", name="Side by side").click()
    page.keyboard.press("Escape")
    expect(pair).not_to_be_visible()

    expect(box.get_by_role("link", name="How it came to be")).to_have_attribute("href", f"/jobs/{batch[3]}/trace")
    box.get_by_role("link", name="Send to img2img").click()
    expect(page.locator("#command")).to_have_text(
        re.compile(f"farm submit img2img 'an otter, asleep' --init {batch[3]}.png")
    )
    page.go_back()
    cells(page).nth(2).click()
    page.get_by_role("dialog").get_by_role("link", name="Again with…").click()
    expect(page.locator("#command")).to_have_text(
        "farm submit txt2img 'a fox in the snow' --model emoji --seed 7 --steps 20 --width 64 --height 64"
    )


def test_hostile_words_do_nothing_and_nobody_is_shut_out(show: Show, batch: list[str]) -> None:
    for scheme, options in (("light", {}), ("dark", {"viewport": PHONE})):
        page = show(of(batch), color_scheme=scheme, **options)
        expect(page.locator(".cell img:visible")).to_have_count(4)
        page.get_by_text("What can be searched for").click()
        assert Axe().run(page).violations_count == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
        page.locator(".cell").nth(3).click()
        box = page.get_by_role("dialog", name="Picture")
        expect(box.locator("#prompts")).to_contain_text("</script><img src=x onerror=alert(1)>")
        expect(box.get_by_role("link", name='project="><b>otters</b>')).to_be_visible()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_what_is_done_between_the_first_search_and_the_stream_comes_too(
    show: Show, batch: list[str], said: Said
) -> None:
    """Nobody hears of it from the stream."""
    page = show("/login")
    nothing = {"pictures": [], "total": 0, "here": None, "next": None, "making": None}
    page.route("**/api/v1/gallery*", lambda route: route.fulfill(json=nothing), times=1)
    page.route("**/api/v1/events*", lambda route: route.abort(), times=1)
    page.goto(of(batch))
    expect(page.locator("#found")).to_have_text("0 pictures")
    expect(page.locator("#found")).to_have_text("4 pictures")
    said.lines.clear()  # the browser's own words of the stream


def test_what_is_done_meanwhile_comes_by_itself_and_what_is_forgotten_goes(
    show: Show, client: FarmClient, batch: list[str], pages: Pages
) -> None:
    page = show("/gallery?q=seed:4242")
    expect(page.locator("#empty")).to_have_text("No picture is like this.")
    [job] = client.submit([JobRequest.parse({"prompt": "new", "seed": 4242, "model": "emoji"})]).jobs
    render(client, job)
    expect(page.locator("#found")).to_have_text("1 picture")
    forget(client.ledger, client.storage, [job], objects=False)
    page.reload()
    expect(page.locator("#found")).to_have_text("0 pictures")


@pytest.fixture
def many(pages: Pages) -> Iterator[str]:
    """A search that finds thousands of pictures, of which there is nothing but what the index says."""
    writer = Writer(pages.home / FILE)
    entries = [made_up(index).model_copy(update={"model": "of-many"}) for index in range(MANY)]
    with writer.whole():
        writer.put(entries)
    yield "/gallery?q=model:of-many%20a"
    with writer.whole():
        writer.remove(entry.job for entry in entries)
    writer.close()


def test_of_thousands_only_those_that_are_seen_are_in_the_page(show: Show, many: str, batch: list[str]) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(picture, "PNG")

    def fulfil(route: Route) -> None:
        route.fulfill(body=picture.getvalue(), content_type="image/png")

    page = show("/")
    page.route("**/thumbnail", fulfil)
    page.goto(many)
    expect(page.locator("#found")).to_have_text("3,000 pictures")
    first = cells(page).first.bounding_box()
    for share in (0.5, 1):
        page.evaluate(f"scrollTo(0, {share} * document.documentElement.scrollHeight)")
        expect(page.locator(".cell img:visible").last).to_be_visible()
        assert 10 < page.locator(".cell").count() < 150
    expect(page.get_by_role("button", name=re.compile(rf"{made_up(0).job}$"))).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    expect(page.get_by_role("button", name=re.compile(rf"{made_up(MANY - 1).job}$"))).to_be_visible()
    assert first == cells(page).first.bounding_box()
    cells(page).first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".cell:focus")).to_have_count(1)

"""Workers and models in a real browser: who is drained and resumed, and that it can be undone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from farm.client import FarmClient
from farm.jobs.status import MemoryUse
from tests.farm.web.pages.conftest import Show
from tests.farm.web.pages.test_queue_page import UNDO_MILLISECONDS
from tests.ledgers import a_worker
from tests.waiting import eventually

pytestmark = pytest.mark.long

LOOK_MILLISECONDS = 6_000
MEMORY = MemoryUse(total=80 * 2**30, used=50 * 2**30, own=40 * 2**30)


def looks_until(page: Page, is_so: Callable[[], bool]) -> None:
    """Let the page look again and again: the site itself looks who lives every two seconds only."""

    def looks() -> bool:
        page.clock.run_for(LOOK_MILLISECONDS)
        return is_so()

    eventually(looks, "the page shows it")


def test_a_worker_is_drained_unless_it_is_undone_and_resumed(show: Show, client: FarmClient) -> None:
    client.ledger.announce(a_worker("gpu-0a1b"))
    client.ledger.announce(a_worker("other-0a1b"))
    page = show("/workers", "submit")
    assert page.get_by_role("button", name="Drain").count() == 0
    page = show("/workers")
    worker = page.get_by_role("region", name="Worker gpu-0a1b")
    drain = worker.get_by_role("button", name="Drain gpu-0a1b")
    drain.click()
    expect(drain).to_be_disabled()
    page.get_by_role("button", name="Undo").click()
    expect(drain).to_be_enabled()
    page.clock.run_for(UNDO_MILLISECONDS)
    assert client.ledger.drained() == []

    drain.click()
    page.clock.run_for(UNDO_MILLISECONDS)
    expect(page.locator(".toast").last).to_have_text("gpu-0a1b: no more jobs, until resumed")
    assert [drained.name for drained in client.ledger.drained()] == ["gpu"]
    client.ledger.announce(a_worker("gpu-0a1b", drained=True, paused="drained by an operator"))
    looks_until(page, lambda: worker.locator(".badge").inner_text() == "drained")
    expect(worker).to_contain_text("Takes no jobs: drained by an operator")
    expect(page.get_by_role("region", name="Worker other-0a1b").locator(".badge")).to_have_text("ready")

    client.ledger.depart("gpu-0a1b")
    absent = page.get_by_role("region", name="Worker gpu", exact=True)
    looks_until(page, lambda: absent.count() == 1)
    expect(absent).to_contain_text("it takes no jobs when it is started")
    assert Axe().run(page).violations_count == 0
    absent.get_by_role("button", name="Resume gpu").click()
    page.goto("/")  # who leaves does not undo it
    eventually(lambda: client.ledger.drained() == [], "it is resumed")


def test_a_page_tells_of_memory_of_rows_and_of_what_is_refused(show: Show, client: FarmClient) -> None:
    client.ledger.announce(a_worker("large-0a1b", rows=6, max_rows=32, device_memory=MEMORY))
    client.ledger.announce(a_worker("old-0a1b", refused={"mine": "it is damaged"}))
    page = show("/workers")
    worker = page.get_by_role("region", name="Worker large-0a1b")
    eventually(lambda: worker.count() or (page.reload() and False), "the site has looked who lives")
    expect(worker).to_contain_text("rows of a step6 of 32")
    expect(worker).to_contain_text("40.0 GiB of its own, 50.0 GiB in use, of 80.0 GiB")
    bar = worker.get_by_role("meter", name="Device memory in use")
    expect(bar).to_have_js_property("value", 50 * 2**30)
    expect(bar).to_have_js_property("max", 80 * 2**30)
    assert page.get_by_role("meter").count() == 1
    old = page.get_by_role("region", name="Worker old-0a1b")
    expect(old).not_to_contain_text("memory in use")
    expect(old).to_contain_text("Does not serve mine: it is damaged")
    expect(page.get_by_role("row", name="mine")).to_contain_text("nobody; refused by old-0a1b")
    assert Axe().run(page).violations_count == 0

"""The queue in a real browser: what happens is seen, what is chosen is done and undone, and the place is kept."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from farm import keys
from farm.bucket.preview import Preview
from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.ledger.records import Claim
from farm.web.pages.queue import JOBS
from tests.farm.rendering import render
from tests.farm.web.pages.conftest import Pages, Said, Show
from tests.ledgers import a_worker
from tests.waiting import eventually

pytestmark = pytest.mark.long

HOSTILE = "</script><img src=x onerror=alert(1)> \x1b[31mred"
UNDO_MILLISECONDS = 7_000


def submitted(client: FarmClient, **fields: object) -> list[str]:
    return [*client.submit([JobRequest.parse({"prompt": "an otter", "seed": 1, "model": "emoji", **fields})]).jobs]


def begun(client: FarmClient, job: str, step: int) -> Claim:
    """A job that a worker has done so many steps of."""
    claim = client.ledger.claim(job, "w1", lease=600)
    assert claim is not None
    client.ledger.renew("w1", [(job, claim.attempt, step)], lease=600)
    return claim


HIDDEN = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_page_that_nobody_sees_holds_no_connection(show: Show, pages: Pages, client: FarmClient) -> None:
    page = show("/")
    eventually(lambda: pages.is_followed, "it follows the farm")
    page.evaluate(HIDDEN, True)
    eventually(lambda: not pages.is_followed, "it does not any more")
    [job] = submitted(client)
    page.evaluate(HIDDEN, False)
    expect(page.locator(f"[id='{job}']")).to_have_attribute("data-state", "queued")
    eventually(lambda: pages.is_followed, "it does again")


def test_what_happens_is_seen_without_a_reload(show: Show, client: FarmClient, storage: Storage) -> None:
    client.ledger.announce(a_worker("w1", images_per_minute=6.0, warm=("emoji",)))
    [first] = submitted(client, labels={"project": "<i>otters</i>"})
    page = show("/")
    row = page.locator(f"[id='{first}']")
    expect(row).to_have_attribute("data-state", "queued")
    expect(row.locator(".when")).to_have_text("in about 10 s")
    expect(page.locator("#lines")).to_contain_text("1 job waiting · 1 worker, done in about 10 s if all are alike")

    claim = begun(client, first, 3)
    expect(row).to_have_attribute("data-state", "running")
    client.ledger.renew("w1", [(first, claim.attempt, 12)], lease=600)
    expect(row.locator(".steps")).to_contain_text("step 12 of 30")
    expect(row.locator("progress")).to_have_js_property("value", 12)

    look = Preview(first, claim.attempt, 12, (128, 128), Image.new("RGB", (16, 16), "teal"))
    storage.put(keys.preview(first), look.to_png(), "image/png")
    expect(row.locator(".shot img")).to_have_attribute("data-step", "12")

    [second] = submitted(client, model="nobodys", priority=8)
    expect(page.locator(f"[id='{second}']")).to_contain_text("priority 8")
    expect(page.locator(f"[id='{second}'] .when")).to_have_text("no worker")
    expect(page.locator("#lines .warn")).to_contain_text("nobodys 1 job waiting · no live worker serves it")
    error = json.dumps({"kind": "nan", "message": f"it came to nothing {HOSTILE}"})
    assert client.ledger.finish(claim, "w1", "failed", {"error": error})
    expect(row.locator(".why")).to_contain_text("nan: it came to nothing </script>")
    expect(page.locator("#states")).to_contain_text("failed 1")


def shown_with(page: Page, said: str) -> None:
    """Reloads the page until it says this: the site looks only now and then who lives."""
    eventually(lambda: said in page.locator("main").inner_text() or (page.reload() and False), f"it says: {said}")


def test_nothing_is_promised_while_no_worker_takes_jobs(show: Show, client: FarmClient) -> None:
    client.ledger.announce(a_worker("w1", images_per_minute=6.0, drained=True, paused="drained by an operator"))
    [job] = submitted(client)
    page = show("/")
    when, line = page.locator(f"[id='{job}'] .when"), page.locator("#lines li")
    shown_with(page, "drained by an operator")
    expect(line).to_have_text("emoji 1 job waiting · its workers take no jobs: drained by an operator")
    expect(line).to_have_class("warn")
    expect(when).to_have_text("no worker takes it now")

    client.ledger.announce(a_worker("w1", images_per_minute=6.0))
    shown_with(page, "1 worker")
    expect(line).to_have_text("emoji 1 job waiting · 1 worker, done in about 10 s if all are alike")
    expect(when).to_have_text("in about 10 s")


def test_what_is_chosen_is_cancelled_unless_it_is_undone_and_queued_again(show: Show, client: FarmClient) -> None:
    jobs = submitted(client, count=3)
    page = show("/")
    cancel, retry = (page.get_by_role("button", name=name, exact=True) for name in ("Cancel", "Retry"))
    expect(cancel).to_be_disabled()

    page.get_by_label("whole batch").check()
    expect(retry).to_be_disabled()
    cancel.click()
    page.get_by_role("button", name="Undo").click()
    page.clock.run_for(UNDO_MILLISECONDS)
    assert client.ledger.counts()["queued"] == 3

    for job in jobs[:2]:
        page.get_by_label(f"Choose {job}").check()
    [other] = submitted(client)
    expect(page.locator(f"[id='{other}']")).to_be_visible()
    expect(page.locator("#chosen")).to_have_text("2 jobs chosen")
    cancel.click()
    page.clock.run_for(UNDO_MILLISECONDS)
    expect(page.locator(".toast")).to_contain_text("2 jobs cancelled")
    expect(page.locator(f"[id='{jobs[0]}']")).to_have_attribute("data-state", "cancelled")
    assert client.ledger.counts()["queued"] == 2

    page.get_by_label(f"Choose {jobs[1]}").check()
    retry.click()
    page.goto("/workers")  # who leaves does not undo it
    page.goto("/?state=queued")
    expect(page.locator(".job")).to_have_count(3)


def test_undoing_ends_by_the_clock_also_where_a_page_is_called_once_a_while(show: Show, client: FarmClient) -> None:
    [job] = submitted(client)
    page = show("/")
    page.get_by_label(f"Choose {job}").check()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.mouse.move(0, 0)
    page.clock.fast_forward(UNDO_MILLISECONDS)  # each timer is called once at most, as in a page that nobody sees
    assert page.get_by_role("button", name="Undo").count() == 0
    eventually(lambda: client.ledger.get(job).state == "cancelled", "it is done")


def test_what_is_chosen_is_raised_and_lowered_at_once_and_undone(show: Show, client: FarmClient) -> None:
    first, second, third = submitted(client, count=3)
    [urgent] = submitted(client, priority=9)
    begun(client, third, 1)
    page = show("/")
    rise, lower = (page.get_by_role("button", name=name, exact=True) for name in ("Raise", "Lower"))
    expect(rise).to_be_disabled()
    toast = page.locator(".toast").last

    def priorities() -> list[int]:
        return [status.priority for status in client.ledger.get_many([first, second, third, urgent])]

    page.get_by_label("whole batch").last.check()  # all three of the first one
    rise.focus()
    for _ in range(2):  # what is chosen stays so, and the focus where it is
        page.keyboard.press("Enter")
    expect(page.locator(f"[id='{first}']")).to_contain_text("priority 7")
    expect(toast).to_contain_text("2 jobs raised to priority 7, 1 could not be")
    assert priorities() == [7, 7, 5, 9], "what runs stays as it is"
    client.prioritise([second], 3)
    expect(page.locator(f"[id='{second}']")).to_contain_text("priority 3")

    lower.click()
    expect(toast).to_contain_text("2 jobs lowered")
    assert priorities() == [6, 2, 5, 9]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(f"[id='{first}']")).not_to_contain_text("priority")
    expect(page.locator(f"[id='{second}']")).to_contain_text("priority 3")
    expect(toast).to_have_text("2 jobs as before")
    assert priorities() == [5, 3, 5, 9], "each has the one that it had, and what somebody else gave it"

    page.reload()
    page.get_by_label(f"Choose {urgent}").check()
    rise.click()
    expect(toast).to_contain_text("1 job cannot be raised any more")
    client.prioritise([first], 4)
    expect(page.locator(f"[id='{first}']")).to_contain_text("priority 4")

    page.get_by_label(f"Choose {urgent}").uncheck()
    for job in (first, second):
        page.get_by_label(f"Choose {job}").check()
        rise.click()
        page.get_by_label(f"Choose {job}").uncheck()
    expect(toast).to_contain_text("1 job raised to priority 4, 2 changed in all")
    page.get_by_role("button", name="Undo").click()
    expect(toast).to_have_text("2 jobs as before")
    assert priorities() == [4, 3, 5, 9]
    expect(page.locator(f"[id='{second}']")).to_contain_text("priority 3")


def test_what_is_chosen_is_counted_by_jobs(show: Show, client: FarmClient) -> None:
    first = submitted(client, count=3)
    second = submitted(client, count=2)
    [single] = submitted(client)
    begun(client, first[0], 1)
    page = show("/?state=queued")
    chosen, whole = page.locator("#chosen"), page.get_by_label("whole batch")
    page.get_by_label(f"Choose {single}").check()
    expect(chosen).to_have_text("1 job chosen")
    whole.nth(1).check()
    expect(chosen).to_have_text("3 jobs chosen")
    whole.nth(2).check()
    expect(chosen).to_have_text("6 jobs chosen")  # with the one that runs, which is not on this page
    page.get_by_role("button", name="Raise").click()
    expect(page.locator(".toast")).to_contain_text("5 jobs raised to priority 6, 1 could not be")
    assert [status.priority for status in client.ledger.get_many([*first, *second, single])] == [5, 6, 6, 6, 6, 6]


def test_pages_filters_and_the_place_are_kept_in_the_address(show: Show, client: FarmClient) -> None:
    jobs = submitted(client, count=103)
    render(client, jobs[0])
    page = show("/")
    page.get_by_role("link", name=re.compile("queued")).click()
    expect(page.locator(".job")).to_have_count(100)
    expect(page.locator("#states [aria-current]")).to_have_text("queued 102")
    page.locator(".job").nth(60).scroll_into_view_if_needed()
    expect(page).to_have_url(re.compile("#"))
    place, top = page.url, page.evaluate("scrollY")
    page.reload()
    eventually(lambda: abs(page.evaluate("scrollY") - top) < 200, "it is where it was")
    assert page.url == place

    page.get_by_role("link", name="Older").click()
    expect(page.locator(".job")).to_have_count(2)
    page.get_by_role("link", name="Newest").click()
    page.goto(f"/?batch={jobs[0][:16]}")
    expect(page.locator(".job").first).to_have_attribute("id", jobs[0])


def test_what_is_done_shows_its_picture_and_a_study_has_none(show: Show, client: FarmClient) -> None:
    [job] = submitted(client)
    [study] = client.submit([JobRequest.parse({"mode": "tokens", "prompt": "a cat"})]).jobs
    page = show("/")
    expect(page.locator(".job")).to_have_count(2)
    render(client, study, answer={"answer.json": b"{}"})
    render(client, job)
    expect(page.locator(f"[id='{job}'] .shot img")).to_have_js_property("naturalWidth", 64)
    expect(page.locator(f"[id='{study}']")).to_have_attribute("data-state", "done")
    assert page.locator(f"[id='{study}'] img").count() == 0


def test_who_may_only_look_is_shown_nothing_to_do(show: Show, client: FarmClient) -> None:
    submitted(client)
    page = show("/", "view")
    expect(page.locator(".job")).to_have_count(1)
    assert page.locator("input, .bar button").count() == 0
    assert page.get_by_role("link", name="Submit").count() == 0


def test_the_page_says_that_the_farm_is_away_and_comes_back(
    show: Show, client: FarmClient, pages: Pages, said: Said
) -> None:
    [job] = submitted(client)
    page = show("/")
    expect(page.locator(".job")).to_have_count(1)
    eventually(lambda: pages.is_followed, "it hears of events")
    pages.redis.lose_answer_to("", stay_away=True)
    expect(page.locator("#away")).to_contain_text("The farm is away", timeout=30_000)
    expect(page.locator("#away")).to_contain_text("cannot be used")
    page.get_by_label(f"Choose {job}").check()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.clock.run_for(UNDO_MILLISECONDS)
    expect(page.locator(".toast.bad")).to_contain_text(f"{job}: not cancelled, for ", timeout=30_000)
    begun(client, job, 5)
    pages.redis.come_back()
    expect(page.locator(f"[id='{job}']")).to_have_attribute("data-state", "running", timeout=30_000)
    expect(page.locator("#away")).to_be_hidden()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".toast")).to_contain_text("1 job cancelled")
    [job] = submitted(client)
    begun(client, job, 5)

    pages.redis.lose_answer_to("", stay_away=True)
    page.goto("/?state=running")
    expect(page.get_by_role("heading", name="Ledger unavailable")).to_be_visible(timeout=30_000)
    pages.redis.come_back()
    expect(page.locator(".job")).to_have_count(1, timeout=30_000)
    assert said.lines and all("503" in line for line in said.lines), "the browser's own words"
    said.lines.clear()


def test_a_batch_is_told_by_the_labels_that_all_its_jobs_have(show: Show, client: FarmClient) -> None:
    crossings = [
        {"prompt": "an otter", "labels": {"project": "otters", "grid.x": f"steps={steps}"}} for steps in (10, 20)
    ]
    client.submit([JobRequest.parse({**crossing, "model": "emoji"}) for crossing in crossings])
    expect(show("/").locator(".batch-head .chip")).to_have_text(["project=otters"])


def test_a_whole_batch_can_be_acted_on_by_what_is_on_another_page(show: Show, client: FarmClient) -> None:
    jobs = submitted(client, count=JOBS + 1)
    client.ledger.cancel_many(jobs[:-1])
    page = show(f"/?batch={keys.batch_of(jobs[0])}")
    expect(page.locator(".job")).to_have_count(JOBS)
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    page.locator(".job input").first.check()
    expect(cancel).to_be_disabled()
    page.get_by_label("whole batch").check()
    expect(cancel).to_be_enabled()

"""A job's page in a real browser: its picture, words and files, how it came to be, and what is done with it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Route, expect

from farm import keys
from farm.bucket.job_log import AttemptLog, LogLine, write_log
from farm.bucket.preview import Preview
from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from tests.farm.rendering import render
from tests.farm.web.pages.conftest import Pages, Said, Show
from tests.farm.web.pages.test_queue_page import HOSTILE, UNDO_MILLISECONDS, begun, shown_with, submitted
from tests.ledgers import a_worker

pytestmark = pytest.mark.long


def test_a_job_is_followed_until_its_picture_is_there(show: Show, client: FarmClient, storage: Storage) -> None:
    [job] = submitted(client, labels={"project": "otters"})
    page = show(f"/jobs/{job}")
    expect(page.locator(".remark")).to_have_text(
        "No live worker serves the model 'emoji'; its jobs wait until one does ('farm worker --model emoji' serves it)"
    )
    expect(page.locator(".when")).to_have_text("")  # no place in a line that does not move
    expect(page.locator("#events li")).to_have_text("queued")  # what follows happens while the page follows
    claim = begun(client, job, 4)
    client.ledger.checkpoint(claim, "w1", 4)
    look = Preview(job, claim.attempt, 4, (128, 128), Image.new("RGB", (16, 16), "teal"))
    storage.put(keys.preview(job), look.to_png(), "image/png")
    expect(page.locator(".shot img")).to_have_attribute("data-step", "4")
    expect(page.locator("#job")).to_contain_text("step 4 is safe, of attempt 1")
    client.ledger.release(claim, "w1")
    render(client, job)

    expect(page.locator("#picture")).to_have_js_property("naturalWidth", 64)
    expect(page.locator(".when")).to_have_text(re.compile(r"^ ?the last attempt took [0-9.]+ s$"))
    events = page.locator("#events li").all_inner_texts()
    assert [re.sub("^.*[AP]M ", "", line) for line in (events[0], events[-1])] == ["queued", "done · attempt 2 · w1"]
    expect(page.locator("#command")).to_have_text(
        "farm submit txt2img 'an otter' --seed 1 --model emoji --label project=otters"
    )
    page.locator("[data-copy=rerun]").click()
    expect(page.locator(".toast")).to_contain_text(re.compile("Copied|Marked"))
    with page.expect_download() as download:
        page.get_by_role("link", name="trace.jsonl").click()
    assert download.value.path().read_bytes() == b'{"step": 1}\n'


def test_how_it_came_to_be_is_a_page_of_no_origin_within(show: Show, client: FarmClient, said: Said) -> None:
    [job] = submitted(client, prompt=HOSTILE)
    render(client, job)
    page = show(f"/jobs/{job}", "view")
    page.get_by_text("Show prompts and tokens").click()
    inside = page.frame_locator("iframe")
    expect(inside.get_by_role("heading", name="Where the time went")).to_be_visible()
    inside.get_by_role("button", name="Dark").click()  # its own script runs
    frame = page.frames[1]
    assert frame.evaluate("origin") == "null"
    reached = frame.evaluate("fetch('/api/v1/session').then(() => true, () => false)")
    assert not reached
    assert all("Content Security Policy" in line for line in said.lines), "its own does not let it"
    said.lines.clear()


def test_a_job_that_failed_says_why_and_is_retried_or_rendered_again(show: Show, client: FarmClient) -> None:
    [job] = submitted(client, prompt=HOSTILE, negative=HOSTILE)
    claim = begun(client, job, 7)
    error = json.dumps({"kind": "memory", "message": f"too large {HOSTILE}"})
    client.ledger.finish(claim, "w1", "failed", {"error": error})
    page = show(f"/jobs/{job}")
    expect(page.locator(".problem")).to_contain_text("memory: too large </script><img src=x onerror=alert(1)>")
    assert page.locator("main script, main img[src=x]").count() == 0
    page.get_by_role("button", name="Retry").click()
    page.clock.run_for(UNDO_MILLISECONDS)
    expect(page.locator("#job")).to_have_attribute("data-state", "queued")

    page.get_by_role("button", name="Render again").click()
    expect(page).not_to_have_url(re.compile(job))
    other = page.url.rpartition("/")[2]
    assert client.ledger.spec(other) == client.ledger.spec(job)


def test_a_queued_job_is_raised_and_lowered_on_its_page(show: Show, client: FarmClient) -> None:
    client.ledger.announce(a_worker("w1"))
    jobs = submitted(client, count=2)
    page = show(f"/jobs/{jobs[1]}")
    shown_with(page, "after 1 other")
    when, facts = page.locator(".when"), page.locator("#job dl").first
    expect(when).to_have_text("after 1 other")
    page.get_by_role("button", name="Raise").click()
    expect(facts).to_contain_text("emoji, priority 6")
    expect(when).to_have_text("next")
    page.get_by_role("button", name="Undo").click()
    expect(facts).to_contain_text("emoji, priority 5")
    expect(when).to_have_text("after 1 other")
    expect(page.locator(".toast").last).to_have_text("1 job as before: priority 5 again")
    page.get_by_role("button", name="Lower").click()
    expect(page.locator("#command")).to_contain_text("--priority 4")

    begun(client, jobs[1], 1)
    expect(page.get_by_role("button", name="Raise")).to_be_hidden()
    expect(page.get_by_role("button", name="Lower")).to_be_hidden()


def test_a_job_has_no_place_in_line_while_no_worker_takes_it(show: Show, client: FarmClient) -> None:
    client.ledger.announce(a_worker("w1", images_per_minute=6.0, drained=True, paused="drained by an operator"))
    [job] = submitted(client)
    page = show(f"/jobs/{job}")
    shown_with(page, "drained by an operator")
    expect(page.locator(".remark")).to_have_text(
        "Every worker that serves the model 'emoji' is drained by an operator; its jobs wait until one is resumed "
        "('farm workers resume NAME')"
    )
    expect(page.locator(".when")).to_have_text("")


def test_one_undo_takes_back_all_changes_of_a_priority(show: Show, client: FarmClient) -> None:
    [job] = submitted(client, priority=2)
    page = show(f"/jobs/{job}")
    facts, undo = page.locator("#job dl").first, page.get_by_role("button", name="Undo")
    for priority in (3, 4):
        page.get_by_role("button", name="Raise").click()
        expect(page.locator(".toast")).to_have_text(f"1 job raised to priority {priority}Undo")
    expect(undo).to_have_count(1)
    undo.click()
    expect(facts).to_contain_text("emoji, priority 2")
    expect(page.locator(".toast")).to_have_text("1 job as before: priority 2 again")
    assert client.ledger.get(job).priority == 2

    page.get_by_role("button", name="Raise").click()
    expect(facts).to_contain_text("emoji, priority 3")
    page.clock.run_for(UNDO_MILLISECONDS)
    expect(undo).to_have_count(0)
    page.get_by_role("button", name="Raise").click()
    undo.click()
    # What was not taken back in time stays.
    expect(page.locator(".toast")).to_have_text("1 job as before: priority 3 again")


def test_an_undo_takes_back_a_change_that_is_still_on_its_way(show: Show, client: FarmClient) -> None:
    [job] = submitted(client, priority=2)
    page = show(f"/jobs/{job}")
    page.get_by_role("button", name="Raise").click()
    undo = page.get_by_role("button", name="Undo")
    expect(undo).to_have_count(1)
    held: list[Route] = []
    page.route("**/api/v1/jobs/priority", lambda route: held.append(route), times=1)
    with page.expect_request("**/api/v1/jobs/priority"):
        page.get_by_role("button", name="Raise").click()
    undo.click()
    [on_its_way] = held
    on_its_way.continue_()
    expect(page.locator(".toast")).to_have_text("1 job as before: priority 2 again")
    assert client.ledger.get(job).priority == 2


def test_a_bucket_that_is_away_keeps_only_the_picture_from_being_shown(
    show: Show, client: FarmClient, pages: Pages, said: Said
) -> None:
    [job] = [*client.submit([JobRequest(prompt="an otter", seed=1)]).jobs]
    render(client, job)
    show("/workers").close()  # the site has seen its bucket
    pages.s3.lose_answer_to("", stay_away=True)
    page = show(f"/jobs/{job}")
    expect(page.locator(".remark")).to_contain_text("Its result cannot be read now")
    expect(page.locator("#command")).to_contain_text("an otter")
    pages.s3.come_back()
    expect(page.locator("#picture")).to_have_js_property("naturalWidth", 64, timeout=30_000)


def test_what_workers_logged_of_a_job_is_shown_as_soon_as_it_is_there(
    show: Show, client: FarmClient, storage: Storage
) -> None:
    [job] = submitted(client)
    page = show(f"/jobs/{job}")
    claim = begun(client, job, 4)
    expect(page.locator("#job")).to_have_attribute("data-state", "running")
    error = json.dumps({"kind": "memory", "message": "it does not fit"})
    assert client.ledger.finish(claim, "w1", "failed", {"error": error})
    expect(page.locator("#job")).to_have_attribute("data-state", "failed")
    assert page.get_by_role("heading", name="Log").count() == 0

    lines = [LogLine(at=datetime.now(UTC), level="info", text=f"line {number}") for number in range(60)]
    lines.append(LogLine(at=None, level="error", text=f"it does not fit {HOSTILE}"))
    write_log(storage, AttemptLog(job=job, attempt=1, worker="w1", lines=tuple(lines), left_out=7))
    log = page.get_by_role("region", name="Log of attempt 1")
    page.clock.run_for(5_000)
    expect(log).to_contain_text("7 earlier lines left out")
    expect(log).to_contain_text("error it does not fit </script>")
    assert Axe().run(page).violations_count == 0

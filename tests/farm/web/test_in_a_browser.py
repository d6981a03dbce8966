"""A real browser at the site: it comes in by the code, asks the API as a page would, and foreign pages do no harm."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.settings import Settings
from tests.browsers import chromium, needs_chromium
from tests.environments import naming, of_a_shell
from tests.farm.web.test_server import Process

pytestmark = [
    pytest.mark.long,
    needs_chromium,
]

ASK = """async ([path, headers]) =>
    (await fetch(path, {method: "POST", body: "{\\"all\\": true}", headers})).status"""
FOLLOW = """async (job) => await new Promise((told, fail) => {
    const stream = new EventSource(`/api/v1/events?name=${job}`);
    stream.addEventListener("status", (event) => told(JSON.parse(event.data).state));
    stream.onerror = fail;
})"""
FOREIGN = """async (address) => {
    const form = new FormData();
    form.append("submission", JSON.stringify({requests: [{prompt: "a stranger's"}]}));
    for (const mode of ["no-cors", "cors"])
        for (const credentials of ["omit", "include"])
            await fetch(`${address}/api/v1/jobs`, {method: "POST", body: form, mode, credentials}).catch(() => null);
    const asked = fetch(`${address}/api/v1/jobs`, {credentials: "include"});
    return await asked.then((answer) => answer.status, () => "nothing");
}"""
"""What a page can send without being asked whether it may: a form, with which a submission can come."""


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[str]:
    """The address of another server of this machine, which has a page."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "index.html").write_text("<title>Foreign</title>", encoding="utf-8")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "foreign")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=[(), ("--no-auth",)], ids=["with a session", "without authentication"])
def serving(request: pytest.FixtureRequest, servers: Settings, client: FarmClient, tmp_path: Path) -> Iterator[Process]:
    """A `farm web` of an empty farm."""
    made = Process({**of_a_shell(tmp_path / "home"), **naming(servers)}, tmp_path, *request.param)
    yield made
    made.process.kill()
    made.process.wait(60)


def test_a_page_of_the_site_asks_it_and_one_of_another_does_nothing(
    serving: Process, browser: Browser, foreign: str, client: FarmClient
) -> None:
    [job] = client.submit([JobRequest(prompt="an otter", seed=1)]).jobs
    with browser.new_context() as context:
        page = context.new_page()
        has_session = "to come in" in serving.said
        page.goto(serving.door if has_session else serving.address)
        assert "an otter" in page.inner_text("main")
        assert page.url == f"{serving.address}/", "the code is in the address no more"

        other = context.new_page()
        other.goto(foreign)
        assert other.evaluate(FOREIGN, serving.address) == "nothing"
        assert client.ledger.newest() == [job]

        assert page.evaluate(FOLLOW, job) == "queued"
        me = page.evaluate("async () => await (await fetch('/api/v1/session')).json()")
        kind = {"Content-Type": "application/json"}
        if has_session:
            assert page.evaluate(ASK, ["/api/v1/cancel", kind]) == 403
            assert client.ledger.get(job).state == "queued"
            kind["X-CSRF-Token"] = me["csrf"]
        assert page.evaluate(ASK, ["/api/v1/cancel", kind]) == 200
    assert client.ledger.get(job).state == "cancelled"

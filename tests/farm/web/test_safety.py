"""Who is let in, by whose name and from whose page, how often and with how much; and what no answer lacks."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from farm.client import FarmClient
from farm.web.limits import Limits, Rate
from farm.web.names import Names
from farm.web.sessions import SECONDS, Sessions
from tests.farm.web.conftest import BASE, Opening, Web

pytestmark = pytest.mark.anyio

ME = "/api/v1/session"
JOBS = "/api/v1/jobs"
SUBMISSION = {"requests": [{"prompt": "an otter"}]}


@pytest.fixture
async def web(nowhere: FarmClient, opened: Opening) -> AsyncIterator[Web]:
    """A site whose farm is away: what is refused is refused before the farm is asked."""
    async with opened(nowhere) as made:
        yield made


def kind(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["type"].removeprefix("urn:render-farm:")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8170", "10.0.0.5", "[2001:db8::1]", "", "a b"],
)
async def test_a_foreign_host_is_refused(web: Web, host: str) -> None:
    async with web.having("operate") as http:
        assert kind(await http.get(ME, headers={"Host": host})) == (421, "host-not-ours")
        assert kind(await http.get("/login", headers={"Host": host})) == (421, "host-not-ours")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9000", "localhost", "LocalHost:1", "[::1]:8170", "127.9.9.9"])
async def test_this_machine_s_own_names_are_known_by_whatever_port_they_are_led_here(web: Web, host: str) -> None:
    async with web.having("view") as http:
        assert (await http.get(ME, headers={"Host": host})).status_code == 200


async def test_beyond_this_machine_names_are_given_and_numbers_are_known(nowhere: FarmClient, opened: Opening) -> None:
    names = Names(frozenset({"farm.example.org"}), loopback_only=False)
    async with opened(nowhere, names=names) as web, web.having("view") as http:
        for host in ("farm.example.org", "FARM.example.org.:443", "10.0.0.5:8170", "[2001:db8::1]", "localhost"):
            assert (await http.get(ME, headers={"Host": host})).status_code == 200, host
        assert kind(await http.get(ME, headers={"Host": "evil.example"})) == (421, "host-not-ours")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:3000", "https://127.0.0.1:8170", "http://localhost:8170"],
)
async def test_a_page_of_another_site_is_refused_even_with_a_token(web: Web, origin: str) -> None:
    async with web.having("operate") as http:
        for ask in (http.get(ME, headers={"Origin": origin}), http.post(JOBS, headers={"Origin": origin})):
            assert kind(await ask) == (403, "foreign-origin")


async def test_pages_of_this_site_may_ask_it_and_links_lead_here(web: Web) -> None:
    async with web.having("view") as http:
        assert (await http.get(ME, headers={"Origin": BASE})).status_code == 200
        for site in ("cross-site", "same-site"):
            assert kind(await http.get(ME, headers={"Sec-Fetch-Site": site})) == (403, "foreign-origin")
            link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
            assert (await http.get("/login", headers=link)).status_code == 200
            assert kind(await http.post(JOBS, headers=link)) == (403, "foreign-origin")
            assert kind(await http.get("/", headers={**link, "Sec-Fetch-Dest": "iframe"})) == (403, "foreign-origin")


async def test_a_site_without_authentication_still_knows_whose_page_asks(nowhere: FarmClient, opened: Opening) -> None:
    async with opened(nowhere, open_to_all=True) as web, web.anyone() as http:
        assert (await http.get(ME)).json() == {"name": "anyone", "role": "operate", "csrf": None}
        assert kind(await http.post(JOBS, headers={"Origin": "http://evil.example"})) == (403, "foreign-origin")
        assert kind(await http.get(ME, headers={"Host": "evil.example"})) == (421, "host-not-ours")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_a_token_comes_as_bearer_or_as_a_password(web: Web) -> None:
    token = web.tokens.add("ci", "submit")
    async with web.anyone() as http:
        for given in (f"Bearer {token}", f"bearer {token}", basic("", token), basic("whoever", token)):
            answer = await http.get(ME, headers={"Authorization": given})
            assert answer.json() == {"name": "ci", "role": "submit", "csrf": None}


async def test_who_is_not_known_gets_nothing_and_no_question_for_a_password(web: Web) -> None:
    token = web.tokens.add("ci", "operate")
    wrong = ["", "Bearer", "Bearer x", f"Bearer {token}x", f"Digest {token}", basic(token, ""), "Basic %", "Basic é"]
    async with web.anyone() as http:
        for given in wrong[:8]:
            answer = await http.get(ME, headers=[(b"Authorization", given.encode("latin-1"))])
            assert kind(answer) == (401, "not-signed-in"), given
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="farm"'
        for path in ("/api/v1/jobs", "/api/v1/events", "/api/v1/none", "/none"):
            assert (await http.get(path)).status_code in (401, 429)


async def test_who_tries_many_tokens_is_slowed_down_and_others_are_not(web: Web) -> None:
    async with web.anyone() as http, web.having("view") as known:
        answers = [await http.get(ME, headers={"Authorization": "Bearer guess"}) for _ in range(12)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert (await known.get(ME)).status_code == 200


async def test_a_removed_token_is_of_no_use_at_once(web: Web) -> None:
    async with web.by_token(web.tokens.add("guest", "view")) as http:
        assert (await http.get(ME)).status_code == 200
        web.tokens.remove("guest")
        assert kind(await http.get(ME)) == (401, "not-signed-in")


async def test_each_role_may_do_its_own_and_no_more(web: Web) -> None:
    async with web.having("view") as viewer, web.having("submit") as submitter:
        for path in (JOBS, "/api/v1/cancel", "/api/v1/jobs/priority", "/api/v1/retry"):
            answer = await viewer.post(path, json={"names": ["x"]})
            assert kind(answer) == (403, "role-too-small")
            assert "farm token add NAME --role submit" in answer.json()["hint"]
        assert kind(await submitter.post("/api/v1/cancel", json={"all": True})) == (403, "role-too-small")


async def test_tokens_that_cannot_be_read_let_nobody_in_and_tell_strangers_nothing(
    web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with web.having("view") as http:
        (tmp_path / "home" / "web-tokens.json").write_text("{", encoding="utf-8")
        answer = await http.get(ME)
    assert kind(answer) == (503, "tokens-unreadable")
    assert str(tmp_path) not in answer.text and f"{tmp_path / 'home' / 'web-tokens.json'} cannot be used" in caplog.text


async def signed_in(web: Web, http: httpx2.AsyncClient) -> str:
    """Come in by the code; returns the CSRF token."""
    code = web.sessions.code
    assert code
    answer = await http.get("/login", params={"code": code})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    told = answer.headers["Set-Cookie"]
    assert "HttpOnly" in told and "SameSite=Strict" in told and "Path=/" in told and "Secure" not in told
    csrf: str = (await http.get(ME)).json()["csrf"]
    return csrf


async def test_the_code_of_the_terminal_lets_one_browser_in_once(web: Web) -> None:
    code = web.sessions.code
    async with web.anyone() as http, web.anyone() as other:
        assert kind(await other.get("/login", params={"code": "x"})) == (403, "code-not-valid")
        await signed_in(web, http)
        assert (await http.get(ME)).json()["role"] == "operate"
        assert "You are signed in" in (await http.get("/login")).text
        assert kind(await other.get("/login", params={"code": code})) == (403, "code-not-valid")
        assert kind(await other.get(ME)) == (401, "not-signed-in")


async def test_what_a_session_changes_needs_its_csrf_token(web: Web) -> None:
    async with web.anyone() as http:
        csrf = await signed_in(web, http)
        for given in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": csrf + "x"}, {"X-CSRF-Token": "é".encode("latin-1")}):
            for method, path in (("POST", JOBS), ("POST", "/api/v1/cancel"), ("DELETE", ME), ("PUT", JOBS)):
                answer = await http.request(method, path, headers=given)  # type: ignore[arg-type]
                assert kind(answer) == (403, "csrf-token-missing")
        answer = await http.post(JOBS, json=SUBMISSION, headers={"X-CSRF-Token": csrf})
        assert kind(answer) == (503, "ledger-unavailable"), "it got as far as the farm"
        assert (await http.delete(ME, headers={"X-CSRF-Token": csrf})).status_code == 204
        assert (await http.get(ME)).status_code == 401


async def test_a_session_that_began_with_a_token_ends_with_it(web: Web) -> None:
    async with web.by_token(web.tokens.add("guest", "view")) as program, web.anyone() as http:
        begun = await program.post(ME)
        cookie = begun.headers["Set-Cookie"].partition(";")[0]
        assert begun.status_code == 201 and begun.json()["csrf"]
        assert (await http.get(ME, headers={"Cookie": cookie})).json()["name"] == "guest"
        web.tokens.remove("guest")
        assert (await http.get(ME, headers={"Cookie": cookie})).status_code == 401


def test_sessions_end_by_themselves() -> None:
    now = [0.0]
    sessions = Sessions(clock=lambda: now[0])
    cookie = sessions.begin("browser", "operate", token=None)
    now[0] = SECONDS - 1
    assert sessions.of(cookie)
    now[0] = SECONDS + 1
    assert sessions.of(cookie) is None


async def test_a_huge_body_is_refused_unread_or_as_soon_as_it_is_too_large(
    nowhere: FarmClient, opened: Opening
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1_000):
            yield bytes(10_000)
        raise AssertionError("it was read to its end")

    async with opened(nowhere, limits=Limits(large_body=100_000)) as web, web.having("submit") as http:
        for path, most in ((JOBS, "100,000"), ("/api/v1/cancel", "65,536")):
            answer = await http.post(path, content=b"x", headers={"Content-Length": str(10**12)})
            assert kind(answer) == (413, "body-too-large")
            assert answer.json()["detail"] == f"the body has more than {most} bytes"
            assert kind(await http.post(path, content=endless())) == (413, "body-too-large")
        async with web.anyone() as stranger:
            assert (await stranger.post(JOBS, content=endless())).status_code == 401, "nothing is read of strangers"


async def test_bodies_of_all_callers_together_are_bounded_and_let_go(nowhere: FarmClient, opened: Opening) -> None:
    async with opened(nowhere, limits=Limits(buffered=1_000)) as web, web.having("submit") as http:
        assert kind(await http.post(JOBS, content=bytes(1_001))) == (503, "busy")
        for _ in range(3):
            assert (await http.post(JOBS, content=bytes(900))).status_code == 422


async def test_a_body_that_does_not_come_is_not_waited_for(nowhere: FarmClient, opened: Opening) -> None:
    from tests.farm.web.asgi import Connection

    async with opened(nowhere, limits=Limits(body_seconds=0.05)) as web:
        token, sent = web.tokens.add("slow", "submit"), Connection()
        headers = {"host": "127.0.0.1", "authorization": f"Bearer {token}", "content-length": "10"}
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": JOBS, "query_string": b"", "scheme": "http"}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]

        async def never() -> dict[str, Any]:
            await sent.gone.wait()
            return {}

        await web.site.app(scope, never, sent.sent.put)
        assert await sent.status() == 408


async def test_requests_come_at_a_rate_of_each_caller(nowhere: FarmClient, opened: Opening) -> None:
    async with (
        opened(nowhere, limits=Limits(requests=0.5)) as web,
        web.having("view") as http,
        web.having("view") as other,
    ):
        answers = [await http.get(ME) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert kind(answers[2]) == (429, "too-many-requests")
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 3
        assert (await other.get(ME)).status_code == 200


def test_a_bucket_fills_up_again() -> None:
    now = [0.0]
    rate = Rate(2.0, 4.0, clock=lambda: now[0])
    assert [rate.wait("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    now[0] = 1.0
    assert [rate.wait("a") for _ in range(3)] == [0, 0, 0.5]
    assert rate.wait("b", 1e9) == 0, "what is more than a full bucket takes all of it"


async def test_pixels_are_paid_for_before_they_are_decoded(nowhere: FarmClient, opened: Opening) -> None:
    file = io.BytesIO()
    Image.new("1", (1_000, 1_000)).save(file, "PNG")
    picture = file.getvalue()
    whole, other = (base64.b64encode(data).decode() for data in (picture, picture + b"of another name"))

    def asking(*pictures: str) -> dict[str, Any]:
        return {"requests": [{"prompt": "x", "mode": "img2img", "init": {"base64": one}} for one in pictures]}

    async with opened(nowhere, limits=Limits(pixels=150_000)) as web, web.having("submit") as http:
        assert kind(await http.post(JOBS, json=asking(whole, whole))) == (503, "ledger-unavailable"), "each once"
        refused = await http.post(JOBS, json=asking(other))
        assert kind(refused) == (429, "too-many-pixels")
        assert int(refused.headers["Retry-After"]) >= 1


HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


async def test_every_answer_is_safe_to_be_opened(web: Web) -> None:
    async with web.having("operate") as http, web.anyone() as stranger:
        answers = [
            await http.get(ME),
            await http.get(JOBS),
            await http.get("/none"),
            await http.put(JOBS),
            await http.post(JOBS, content=b"{"),
            await http.get("/none", headers={"Accept": "text/html"}),
            await stranger.get(ME),
            await stranger.get("/api/v1/openapi.json"),
            await stranger.get("/", headers={"Host": "evil.example"}),
        ]
    assert [answer.status_code for answer in answers] == [200, 503, 404, 405, 422, 404, 401, 200, 421]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


async def test_the_door_s_form_says_whose_page_it_is_to_this_site_alone(web: Web) -> None:
    async with web.anyone() as http:
        headers = (await http.get("/login")).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS | {"referrer-policy": "same-origin"}
        for onward in ("//evil.example", "/\\evil.example", "https://evil.example", "", "/\tx", "/é"):
            token = web.tokens.add(f"t{len(web.tokens.all())}", "view")
            answer = await http.post("/login", data={"word": token, "onward": onward})
            assert (answer.status_code, answer.headers["Location"]) == (303, "/"), onward
            http.cookies.clear()


async def test_a_browser_is_told_in_a_page_what_a_program_is_told_as_a_problem(web: Web) -> None:
    page, inside = {"Accept": "text/html,*/*"}, {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "same-origin"}
    async with web.having("view") as http, web.anyone() as stranger:
        told = await http.get("/", headers=page)
        assert (told.status_code, told.headers["Retry-After"]) == (503, "5")
        assert told.headers["content-type"].startswith("text/html") and "cannot be used" in told.text
        assert kind(await http.get("/", headers={"Accept": "*/*"})) == (503, "ledger-unavailable")
        assert kind(await http.get(JOBS, headers=page)) == (503, "ledger-unavailable"), "the API has no pages"
        framed = await http.get(f"/jobs/{'0' * 16}-0000/trace", headers=page | inside)
        assert "frame-ancestors 'self'" in framed.headers["content-security-policy"]
        assert (framed.status_code, framed.headers["x-frame-options"]) == (503, "SAMEORIGIN")

        door = await stranger.get("/jobs/x?a=<b>&c", headers=page)
        assert (door.status_code, 'value="/jobs/x?a=%3Cb%3E&amp;c"' in door.text) == (401, True)
        wrong = await stranger.post("/login", data={"word": "guess"}, headers=page)
        assert (wrong.status_code, "guess" in wrong.text) == (403, False)
        code = {"word": web.sessions.code, "onward": "/workers"}
        assert (await stranger.post("/login", data=code)).headers["Location"] == "/workers"
        assert "with the role operate" in (await stranger.get("/login")).text


async def test_a_fault_of_the_farm_s_tells_nothing_and_is_in_the_log(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(web.site.parts.client.ledger, "workers", broken)
    async with web.having("view") as http:
        answer = await http.get("/api/v1/workers")
    assert kind(answer) == (500, "internal-server-error")
    assert "secret" not in answer.text and "a secret of the inside" in caplog.text


async def test_logs_hold_no_secret(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token, code = web.tokens.add("ci", "submit"), web.sessions.code
    assert code
    async with web.by_token(token) as http, web.anyone() as browser:
        csrf = await signed_in(web, browser)
        await browser.get("/login", params={"code": code})
        await browser.post(JOBS, json=SUBMISSION, headers={"X-CSRF-Token": csrf})
        await http.get(ME, params={"token": token})
        await http.get(ME, headers={"Authorization": basic("x", token + "x")})
    written = [record.getMessage() for record in caplog.records if record.name == "farm.web"]
    assert any(line.startswith("ci GET /api/v1/session 422") for line in written)
    cookie = browser.cookies.jar
    secrets = [token, code, csrf, *(str(one.value) for one in cookie)]
    assert len(secrets) == 4
    assert not [secret for secret in secrets if secret in json.dumps(written)]

"""What schemathesis makes up from the OpenAPI document: the site answers all of it as the document says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.web.access import Access
from farm.web.app import Site, create
from farm.web.limits import Limits
from farm.web.server import Serving, bound, configuration
from farm.web.sessions import Sessions
from farm.web.tokens import Tokens
from tests.farm.rendering import render
from tests.waiting import eventually

pytestmark = pytest.mark.long

NOT_SAID = {
    "positive_data_acceptance",  # a schema cannot say how fields go together, such as a mix and its prompts
    "missing_required_header",
    "use_after_free",
    "ensure_resource_availability",
}
EXAMPLES = 8
ENDLESS = "/api/v1/events"


@pytest.fixture
def site(client: FarmClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    """The site of an empty farm, and a token of it."""
    home = tmp_path_factory.mktemp("web") / "home"
    tokens = Tokens(home)
    made = create(client, Access(tokens, Sessions()), limits=Limits(requests=1e6, refusals=1e6), home=home)
    yield made, tokens.add("fuzz", "operate")
    feeder = made.parts.index.feeder if made.parts.index else None
    assert feeder
    feeder.close()
    eventually(lambda: not feeder.is_busy, "nobody keeps the index any more")


def test_whatever_is_sent_is_answered_as_the_document_says(
    site: tuple[Site, str], client: FarmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, token = site
    # Nobody renders what is submitted here, and who waits for it must not wait for longer than schemathesis does.
    usage = made.parts.usage
    monkeypatch.setattr(usage, "limits", replace(usage.limits, wait_seconds=0.5))
    headers = {"Authorization": f"Bearer {token}", "Host": "127.0.0.1"}
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", made.app, headers=headers)
    checks: list[Any] = [check for check in CHECKS.get_all() if check.__name__ not in NOT_SAID]
    of_answers = [check for check in checks if check.__name__ not in ("negative_data_rejection", "ignored_auth")]
    [job] = client.submit([JobRequest(prompt="an otter")]).jobs
    render(client, job)
    index = made.parts.index
    assert index
    eventually(lambda: index.feeder.is_ready, "the index is there")
    answered: set[int] = set()
    operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) >= 14
    for operation in operations:
        if operation.path == ENDLESS:
            continue

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def asks(case: Any) -> None:
            answered.add(case.call_and_validate(headers=headers, checks=checks).status_code)
            if "job" in (case.path_parameters or {}):
                case.path_parameters["job"] = job
                answered.add(case.call_and_validate(headers=headers, checks=of_answers).status_code)

        asks()
    assert answered >= {200, 404, 409, 422}


@pytest.fixture
def serving(site: tuple[Site, str]) -> Iterator[tuple[str, str]]:
    """The address of the site, which runs, and the token."""
    made, token = site
    with closing(bound("127.0.0.1", 0)) as listening:
        listening.listen()
        server = uvicorn.Server(configuration(made.app, Serving()))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", token
        finally:
            server.should_exit = True
            running.join()


@pytest.fixture
def worker(client: FarmClient) -> Iterator[None]:
    """A stand-in that does whatever is queued."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.02):
            for status in client.list(state="queued"):
                with contextlib.suppress(AssertionError):  # it was cancelled meanwhile
                    render(client, status.id)

    working = threading.Thread(target=work)
    working.start()
    yield
    over.set()
    working.join()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("document", "fewest"), [("/sdapi/v1/openapi.json", 28), ("/v1/openapi.json", 5)])
def test_so_it_is_by_the_apis_of_other_programs(serving: tuple[str, str], document: str, fewest: int) -> None:
    address, token = serving
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_url(address + document, headers=headers)
    taken = {*NOT_SAID, "negative_data_rejection"}  # what is not known there is ignored, and a text may be a number
    checks: list[Any] = [check for check in CHECKS.get_all() if check.__name__ not in taken]
    answered: set[int] = set()
    operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) >= fewest
    for operation in operations:

        @settings(
            max_examples=EXAMPLES if operation.body else 1,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def asks(case: Any) -> None:
            answered.add(case.call_and_validate(headers=headers, checks=checks).status_code)

        asks()
    assert answered >= {200, 422 if document.startswith("/sdapi") else 400}

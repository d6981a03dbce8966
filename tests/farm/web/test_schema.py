"""What schemathesis makes up from the OpenAPI document: the site answers all of it as the document says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from farm.client import FarmClient
from farm.web.access import Access
from farm.web.app import create
from farm.web.limits import Limits
from farm.web.sessions import Sessions
from farm.web.tokens import Tokens

pytestmark = pytest.mark.long

NOT_SAID = {
    "positive_data_acceptance",  # a schema cannot say how fields go together, such as a mix and its prompts
    "missing_required_header",
    "use_after_free",
    "ensure_resource_availability",
}
EXAMPLES = 8


@pytest.fixture
def site(client: FarmClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[object, str]]:
    """The site of an empty farm, and a token of it."""
    tokens = Tokens(tmp_path_factory.mktemp("web") / "home")
    limits = Limits(requests=1e6, refusals=1e6)
    made = create(client, Access(tokens, Sessions()), limits=limits)
    yield made.app, tokens.add("fuzz", "operate")


def test_whatever_is_sent_is_answered_as_the_document_says(site: tuple[object, str]) -> None:
    app, token = site
    headers = {"Authorization": f"Bearer {token}", "Host": "127.0.0.1"}
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers=headers)
    checks = [check for check in CHECKS.get_all() if check.__name__ not in NOT_SAID]
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 14
    for operation in operations:
        if operation.path == "/api/v1/events":
            continue  # it does not end

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def asks(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, checks=checks)

        asks()

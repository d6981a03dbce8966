"""Where the farm is, from the environment; and what is said when that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm import settings
from farm.errors import InvalidInput, NotConfigured

REDIS = "redis://:secret@host:6380/2"


def test_servers_of_the_environment_come_first(tmp_path: Path) -> None:
    found = settings.load({"FARM_REDIS_URL": REDIS, "FARM_S3_ENDPOINT": "http://s3:8333", "FARM_HOME": str(tmp_path)})

    assert (found.redis_address, found.s3_endpoint, found.s3_bucket) == ("host:6380/2", "http://s3:8333", "farm")
    assert not found.local
    assert "secret" not in repr(found)


def test_half_a_farm_is_refused() -> None:
    with pytest.raises(NotConfigured, match="FARM_REDIS_URL is not"):
        settings.load({"FARM_S3_ENDPOINT": "http://s3:8333"})


def test_no_farm_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match="farm up --detach"):
        settings.load({"FARM_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FARM_REDIS_URL", "redis://:topsecret#x@host:6379/0"),
        ("FARM_REDIS_URL", "redis://:topsecret/x@host:6379/0"),
        ("FARM_REDIS_URL", "redis://:topsecret@host:port"),
        ("FARM_REDIS_URL", "redis://:topsecret@host:70000"),
        ("FARM_REDIS_URL", "http://:topsecret@host"),
        ("FARM_REDIS_URL", "topsecret"),
        ("FARM_S3_ENDPOINT", "ftp://topsecret@host"),
        ("FARM_S3_ENDPOINT", "http://topsecret:x/"),
        ("FARM_S3_PUBLIC_ENDPOINT", "topsecret"),
    ],
)
def test_an_address_that_cannot_be_read_is_named_and_never_quoted(variable: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings.load({"FARM_REDIS_URL": REDIS, variable: value})

    assert caught.value.field == variable
    assert "topsecret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "a traceback would quote the password"

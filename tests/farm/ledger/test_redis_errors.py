"""What the words of Redis, of whatever version, say of a right that a user lacks."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import NoPermissionError

from farm.ledger.redis_errors import KEYS, Lack, lack


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NoPermissionError("User u has no permissions to run the 'config|get' command"), Lack("+config|get", "u")),
        (NoPermissionError("this user has no permissions to run the 'set' command or its subcommand"), Lack("+set")),
        (NoPermissionError("No permissions to access a key"), Lack(KEYS)),
        (NoPermissionError("this user has no permissions to access one of the keys used as arguments"), Lack(KEYS)),
        (NoPermissionError("No permissions to access a channel"), Lack(None)),
        (
            redis.ResponseError(
                "ACL failure in script: User u has no permissions to run the 'set' command script: on x"
            ),
            Lack("+set", "u"),
        ),
        (redis.ResponseError("-NOPERM The user executing the script can't run this command or subcommand"), Lack(None)),
        (redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), None),
        (redis.ConnectionError("nobody is there"), None),
    ],
)
def test_a_right_is_told_as_it_is_granted(error: Exception, told: Lack | None) -> None:
    assert lack(error) == told


def test_a_cause_tells_it_as_well() -> None:
    error = OSError("batch failed")
    error.__cause__ = NoPermissionError("User u has no permissions to run the 'lpush' command")
    assert lack(error) == Lack("+lpush", "u")

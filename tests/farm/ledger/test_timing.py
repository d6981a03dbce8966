"""The times of a farm: what follows from what, and what `FARM_TIMING` may say."""

from __future__ import annotations

import pytest

from farm.errors import InvalidInput
from farm.ledger.timing import TIMING, Timing
from tests.timing import SHORT, of_a_farm


def test_a_farm_runs_with_the_times_that_its_documentation_names() -> None:
    assert (TIMING.lease, TIMING.renewal, TIMING.window) == (15.0, 5.0, 7.5)
    assert (TIMING.announcement, TIMING.announced) == (5.0, 15.0)
    assert (TIMING.reaping, TIMING.reaper_lock, TIMING.unclaimed, TIMING.search) == (2.0, 6.0, 5.0, 30.0)
    assert (TIMING.forgotten, TIMING.unpromoted, TIMING.patience, TIMING.disk) == (600.0, 10.0, 600.0, 10.0)
    assert (TIMING.first_pause, TIMING.longest_pause, TIMING.again, TIMING.progress) == (0.5, 10.0, 1.0, 0.5)
    assert TIMING.stall is None
    assert Timing.from_environment({}) is TIMING


def test_a_farm_of_tests_is_told_others_by_one_variable() -> None:
    assert Timing.from_environment(of_a_farm(SHORT)) == SHORT
    assert Timing.from_environment({"FARM_TIMING": '{"lease": 30}'}) == Timing(lease=30)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "FARM_TIMING: Invalid JSON"),
        ("[]", "FARM_TIMING: Input should be an object"),
        ('{"leese": 3}', "FARM_TIMING: leese: Extra inputs are not permitted"),
        ('{"lease": 0}', "FARM_TIMING: lease: Input should be greater than or equal to 0.05"),
        ('{"lease": 1e9}', "FARM_TIMING: lease: Input should be less than or equal to 86400"),
        ('{"unclaimed": -1}', "FARM_TIMING: unclaimed: Input should be greater than or equal to 0"),
        ('{"lease": 1}', "FARM_TIMING: Value error, leases would lapse between two reports"),
        ('{"lease": 9}', "FARM_TIMING: Value error, nothing would ever be reaped"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Timing.from_environment({"FARM_TIMING": text})
    assert caught.value.message.startswith(told)
    assert "\n" not in caught.value.message

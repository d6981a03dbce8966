"""Which model is loaded next: case by case, and in farms of thirty models that are simulated for half an hour."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from tests.worker.models.simulated import Farm, OldestFirst, Ours, Setting, Strategy, UntilEmpty
from worker.models.demand import DUE, STAY, Model, Plan, plan

LOAD = 10.0


def model(
    name: str, waiting: int = 0, oldest: float = 1.0, *, held: float | None = None, elsewhere: int = 0, idle: float = 0
) -> Model:
    return Model(name, waiting, oldest, size=1, load=LOAD, elsewhere=elsewhere, held=held, idle=idle)


def next_of(*models: Model, room: int = 1) -> Plan:
    return plan(models, room, job_seconds=1.0)


def test_nothing_is_loaded_that_nobody_waits_for() -> None:
    assert next_of() == next_of(model("a"), room=9) == next_of(model("a", held=1, waiting=9)) == Plan()


def test_what_finds_room_is_loaded_at_once() -> None:
    assert next_of(model("a", held=0, waiting=9), model("b", waiting=1), room=2) == Plan("b")
    assert next_of(model("b", waiting=1)) == Plan("b")


def test_what_has_no_jobs_makes_room_first_what_was_used_the_longest_ago() -> None:
    wanted, busy = model("new", waiting=1), model("busy", waiting=1, held=1_000)
    rested, resting = model("x", held=1, idle=9), model("y", held=1, idle=3)
    assert next_of(wanted, busy, resting, rested, room=3) == Plan("new", ("x",))


def test_what_has_jobs_makes_room_only_after_a_while_and_only_for_what_is_due() -> None:
    kept, just_come = (model("old", waiting=9, held=seconds) for seconds in (STAY * LOAD, STAY * LOAD - 1))
    due, not_due = (model("new", waiting=1, oldest=seconds) for seconds in (DUE * LOAD, DUE * LOAD - 1))
    assert next_of(kept, due) == Plan("new", ("old",))
    assert next_of(kept, not_due) == next_of(just_come, due) == next_of(just_come, not_due) == Plan()


def test_the_oldest_job_that_is_due_decides_and_otherwise_the_most_waiting() -> None:
    many, few = model("many", waiting=90, oldest=50), model("few", waiting=1, oldest=60)
    assert next_of(many, few) == Plan("many")
    due = model("due", waiting=1, oldest=DUE * LOAD)
    assert next_of(many, due, model("later", waiting=90, oldest=DUE * LOAD - 1)) == Plan("due")


def test_of_equally_many_the_more_urgent_are_next_but_not_before_what_is_due() -> None:
    def asked(name: str, priority: float, waiting: int = 4, oldest: float = 20.0) -> Model:
        return replace(model(name, waiting, oldest), priority=priority)

    assert next_of(asked("urgent", 9), asked("whenever", 0)) == Plan("urgent")
    assert next_of(asked("urgent", 9), asked("usual, twice as many", 5, waiting=8)) == Plan("usual, twice as many")
    assert next_of(asked("urgent", 9), asked("due", 0, waiting=1, oldest=DUE * LOAD)) == Plan("due")


def test_of_what_has_jobs_the_one_with_the_fewest_leaves() -> None:
    due = model("new", waiting=1, oldest=DUE * LOAD)
    few, many = model("few", waiting=2, held=1_000), model("many", waiting=9, held=1_000)
    assert next_of(due, many, few, room=2) == Plan("new", ("few",))


def test_what_others_have_is_left_to_them_unless_they_have_too_much_to_do() -> None:
    """More than loading it takes for one that has nothing else to do, and clearly more for another."""
    busy = model("mine", waiting=1, held=0)
    for jobs, idle_loads, busy_loads in ((10, False, False), (11, True, False), (41, True, True)):
        shared = model("theirs", waiting=jobs, elsewhere=1)
        assert (next_of(shared, room=2).load is not None) == idle_loads
        assert (next_of(shared, busy, room=2).load is not None) == busy_loads
    assert next_of(model("theirs", waiting=20, elsewhere=2), room=2) == Plan()


def test_a_model_larger_than_the_room_has_it_to_itself() -> None:
    large = Model("large", waiting=1, oldest=1, size=5, load=LOAD)
    assert next_of(large, model("a", held=1), model("b", held=1), room=2) == Plan("large", ("a", "b"))
    assert next_of(large, model("a", held=1), model("b", held=1, waiting=1), room=2) == Plan()
    assert next_of(large) == Plan("large")


# In a simulated farm, against two simpler ways

NAMES = [f"m{number:02}" for number in range(30)]
_SHARES = [1 / (number + 1) for number in range(30)]
MIXED = Setting({name: 2.8 * share / sum(_SHARES) for name, share in zip(NAMES, _SHARES, strict=True)})
"""A few models that many like and many that few do, on four workers that have to do 70 % of what they can."""
HOT = Setting({name: 1.1 if number < 4 else 0.01 for number, name in enumerate(NAMES)})
"""Four models whose jobs alone are more than the four workers can do, and others that are wanted now and then."""
URGENT = replace(HOT, priorities={name: 9.0 if number < 4 else 0.0 for number, name in enumerate(NAMES)})
"""The same, where those four are the most urgent and all others the least."""
SETTINGS = {"mixed": MIXED, "hot": HOT, "urgent": URGENT}
SEEDS = (1, 2, 3)


@cache
def ran(setting_name: str, way: type[Strategy], seed: int) -> Farm:
    return Farm(SETTINGS[setting_name], way(), seed).run()


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("setting", ["mixed", "hot"])
def test_far_fewer_models_are_loaded_than_for_the_oldest_job_always(setting: str, seed: int) -> None:
    ours, oldest_first = ran(setting, Ours, seed), ran(setting, OldestFirst, seed)
    assert ours.loads_per_job < oldest_first.loads_per_job / 4
    assert ours.loads_per_job < 0.15
    assert ours.done > 3 * oldest_first.done


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("setting", "rare"), [("mixed", NAMES), ("hot", NAMES[4:])])
def test_no_job_waits_nearly_as_long_as_where_models_stay_until_they_have_none(
    setting: str, rare: list[str], seed: int
) -> None:
    ours, until_empty = ran(setting, Ours, seed), ran(setting, UntilEmpty, seed)
    assert ours.longest_wait(*rare) < until_empty.longest_wait(*rare) / 3
    assert ours.done > 0.95 * until_empty.done


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_the_longest_wait_is_bounded_by_a_round_of_all_models(seed: int) -> None:
    """A job is due after `DUE` loads, and before it come at most the others that are due: each worker loads one after
    the other of those, and keeps each for `STAY` loads at the most if there is another."""
    for name, rare in (("mixed", NAMES), ("hot", NAMES[4:]), ("urgent", NAMES[4:])):
        farm, setting = ran(name, Ours, seed), SETTINGS[name]
        rounds = len(NAMES) / setting.workers
        assert farm.longest_wait(*rare) < setting.load * (DUE + rounds * (1 + STAY))


def test_a_simulation_is_the_same_each_time() -> None:
    again = Farm(MIXED, Ours(), seed=1).run()
    assert (again.loads, again.waits) == (ran("mixed", Ours, 1).loads, ran("mixed", Ours, 1).waits)

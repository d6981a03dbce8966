"""Who gets rows of the next forward pass."""

from worker.engine.admission import Admission, Candidate


def job(name: str, *, batch_key: str = "a", priority: int = 5, arrival: int = 0, rows: int = 2) -> Candidate:
    return Candidate(name, batch_key, priority, arrival, rows)


def test_nobody_waits_nobody_is_chosen() -> None:
    assert Admission().choose([], 8) == []


def test_earlier_arrivals_go_first_at_equal_priority() -> None:
    waiting = [job("late", arrival=3), job("early", arrival=1), job("middle", arrival=2)]

    assert Admission().choose(waiting, 4) == ["early", "middle"]


def test_an_urgent_job_takes_the_rows_of_one_that_came_before() -> None:
    admission = Admission()
    patient = job("patient", arrival=1)
    assert admission.choose([patient], 2) == ["patient"]

    urgent = job("urgent", arrival=2, priority=9)

    assert admission.choose([patient, urgent], 2) == ["urgent"]
    assert admission.choose([patient], 2) == ["patient"], "the displaced job goes on afterwards"


def test_rows_are_filled_with_a_job_that_fits_where_the_next_does_not() -> None:
    waiting = [job("two", arrival=1), job("another two", arrival=2), job("one", arrival=3, rows=1)]

    assert Admission().choose(waiting, 3) == ["two", "one"]


def test_a_job_larger_than_the_budget_still_goes_alone() -> None:
    assert Admission().choose([job("large", rows=2)], 1) == ["large"]


def test_one_forward_never_mixes_groups() -> None:
    chosen = Admission().choose([job("a1"), job("b1", batch_key="b"), job("a2", arrival=1)], 64)

    assert chosen == ["a1", "a2"]


def served(admission: Admission, waiting: list[Candidate], seconds: dict[str, float], turns: int) -> list[str]:
    """Which job goes at each turn, if a turn of each group takes so long."""
    admission.meet({candidate.batch_key for candidate in waiting})
    order = []
    for _ in range(turns):
        [first, *_] = admission.choose(waiting, 64)
        batch_key = next(candidate.batch_key for candidate in waiting if candidate.id == first)
        admission.charge(batch_key, seconds[first])
        order.append(first)
    return order


def test_groups_of_equal_urgency_and_pace_take_turns() -> None:
    waiting = [job("a", arrival=1), job("b", batch_key="b", arrival=2), job("c", batch_key="c", arrival=3)]

    assert served(Admission(), waiting, {"a": 1, "b": 1, "c": 1}, 6) == ["a", "b", "c", "a", "b", "c"]


def test_groups_share_the_time_not_the_turns() -> None:
    waiting = [job("slow", arrival=1), job("quick", batch_key="b", arrival=2)]

    order = served(Admission(), waiting, {"slow": 10.0, "quick": 0.5}, 42)

    assert order.count("slow") == 2
    assert order[:21] == ["slow", *["quick"] * 20]


def test_who_comes_later_has_no_time_to_catch_up_on() -> None:
    admission = Admission()
    early, late = job("early", arrival=1), job("late", batch_key="b", arrival=2)
    served(admission, [early], {"early": 1.0}, 1_000)

    order = served(admission, [early, late], {"early": 1.0, "late": 1.0}, 6)

    assert order == ["early", "late", "early", "late", "early", "late"]


def test_who_was_away_has_saved_nothing() -> None:
    admission = Admission()
    one, other = job("one", arrival=1), job("other", batch_key="b", arrival=2)
    served(admission, [one, other], {"one": 1.0, "other": 1.0}, 2)
    served(admission, [one], {"one": 1.0}, 100)

    assert served(admission, [one, other], {"one": 1.0, "other": 1.0}, 4).count("one") == 2


def test_a_group_with_an_urgent_job_goes_before_a_crowded_one() -> None:
    crowd = [job(f"crowd {n}", arrival=n) for n in range(20)]
    urgent = job("urgent", batch_key="b", priority=9, arrival=99)
    admission = Admission()

    assert admission.choose([*crowd, urgent], 8) == ["urgent"]

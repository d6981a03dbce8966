"""Who gets rows of the next forward pass."""

from worker.engine.admission import Admission, Candidate


def job(name: str, *, group: str = "a", priority: int = 5, arrival: int = 0, rows: int = 2) -> Candidate:
    return Candidate(name, group, priority, arrival, rows)


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
    chosen = Admission().choose([job("a1"), job("b1", group="b"), job("a2", arrival=1)], 64)

    assert chosen == ["a1", "a2"]


def test_groups_of_equal_urgency_take_turns() -> None:
    admission = Admission()
    waiting = [job("a", arrival=1), job("b", group="b", arrival=2), job("c", group="c", arrival=3)]

    served = [admission.choose(waiting, 64)[0] for _ in range(6)]

    assert served == ["a", "b", "c", "a", "b", "c"]


def test_a_group_with_an_urgent_job_goes_before_a_crowded_one() -> None:
    crowd = [job(f"crowd {n}", arrival=n) for n in range(20)]
    urgent = job("urgent", group="b", priority=9, arrival=99)
    admission = Admission()

    assert admission.choose([*crowd, urgent], 8) == ["urgent"]

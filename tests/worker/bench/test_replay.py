"""The replay of arrivals: nothing is lost, nothing takes less than it must, and the engine does as it does in truth."""

from __future__ import annotations

import pytest

from worker.bench.replay import Arrival, Costs, capacity, engine, job_by_job, poisson, static

COSTS = Costs(
    forwards=((1, 1.0), (2, 1.0), (4, 2.0), (8, 4.0)),
    plain_forwards=((1, 1.5), (2, 1.5), (4, 2.0), (8, 4.0)),
    ticks=((2, 0.5), (4, 0.75)),
    board=0.25,
    decode=3.0,
    call=5.0,
    step=0.125,
)


def test_forwards_between_measured_sizes_are_in_proportion() -> None:
    assert [COSTS.forward(rows) for rows in (1, 2, 3, 6, 16)] == [1.0, 1.0, 1.5, 3.0, 8.0]
    assert [COSTS.tick(rows) for rows in (1, 3)] == [0.5, 0.625]


def test_a_job_alone_takes_its_steps_and_its_decode() -> None:
    job = Arrival(moment=10.0, steps=4, rows=2)
    engine([job], COSTS, rows=8, slots=4)

    assert job.first_preview == 0.25 + 1.0 + 0.5
    assert job.latency == 0.25 + 4 * 1.5 + 3.0


def test_a_pipeline_takes_one_job_after_the_other() -> None:
    jobs = [Arrival(0.0, steps=2, rows=2), Arrival(0.0, steps=2, rows=2)]
    job_by_job(jobs, COSTS)

    one = 2 * (1.5 + 0.125) + 5.0
    assert [job.done for job in jobs] == [one, 2 * one]
    assert jobs[0].first_step < jobs[0].done


def test_a_static_batch_ends_with_its_longest_job() -> None:
    jobs = [Arrival(0.0, steps=2, rows=2), Arrival(0.0, steps=6, rows=2), Arrival(1.0, steps=2, rows=2)]
    static(jobs, COSTS, batch=8)

    assert jobs[0].done == jobs[1].done == 6 * 2.125 + 5.0 + 3.0
    assert jobs[2].done > jobs[1].done, "it came when the batch had left"


def test_jobs_that_come_later_share_the_engines_forwards() -> None:
    first, second = Arrival(0.0, steps=8, rows=2), Arrival(2.0, steps=2, rows=2)
    engine([first, second], COSTS, rows=8, slots=4)

    assert second.done < first.done


def test_rows_bound_what_advances_together() -> None:
    wide, narrow = ([Arrival(0.0, steps=3, rows=2) for _ in range(4)] for _ in range(2))
    engine(wide, COSTS, rows=8, slots=4)
    engine(narrow, COSTS, rows=2, slots=4)

    assert max(job.done for job in wide) < max(job.done for job in narrow)
    assert [job.done for job in narrow] == sorted(job.done for job in narrow), "first come, first served"


@pytest.mark.parametrize("load", [0.5, 1.1])
def test_every_job_is_served_after_it_came(load: float) -> None:
    for arm in (job_by_job, lambda jobs, costs: engine(jobs, costs, rows=8, slots=4)):
        jobs = poisson(200, load * capacity(COSTS))
        arm(jobs, COSTS)

        assert all(job.moment < job.first_step < job.done for job in jobs)

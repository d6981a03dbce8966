"""What an attempt leaves for a next one: removed when the job is over, kept when it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm import keys
from farm.ledger.records import Claim
from tests.fakes.worker import FakeFarm, FakeWorker


@pytest.fixture
def left(farm: FakeFarm, tmp_path: Path) -> tuple[FakeWorker, Claim]:
    """A worker whose job has a checkpoint in the bucket and a preview to be shown, and its claim."""
    worker = FakeWorker(farm, tmp_path, snapshot_every=2)
    [job] = farm.submit()
    worker.at_step(3, worker.leave)
    worker.work(job)
    claim = farm.ledger.claim(job, "w1")
    assert claim is not None and claim.checkpoint == 1
    return worker, claim


def test_of_a_job_that_is_over_nothing_stays(farm: FakeFarm, left: tuple[FakeWorker, Claim]) -> None:
    worker, claim = left
    (worker.spool._folder / claim.job).mkdir(parents=True)

    worker.leftovers.remove(claim)

    assert not farm.storage.objects
    assert not (worker.spool._folder / claim.job).exists()
    assert worker.previews._due == {claim.job: None}, "what an earlier attempt may have shown goes as well"


def test_of_a_job_that_goes_on_all_stays(farm: FakeFarm, left: tuple[FakeWorker, Claim]) -> None:
    worker, claim = left
    (worker.spool._folder / claim.job).mkdir(parents=True)

    worker.leftovers.let_go(claim)

    assert set(farm.storage.objects) == {keys.checkpoint(claim.job, 1)}
    assert (worker.spool._folder / claim.job).exists()
    assert not worker.previews._due


def test_a_bucket_that_is_away_keeps_a_checkpoint_and_stops_nobody(
    farm: FakeFarm, left: tuple[FakeWorker, Claim]
) -> None:
    worker, claim = left
    farm.storage.outage.begin()

    worker.leftovers.remove(claim)

    assert keys.checkpoint(claim.job, 1) in farm.storage.objects

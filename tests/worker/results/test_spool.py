"""Finished pictures on disk."""

from __future__ import annotations

import os
from pathlib import Path

from farm.bucket.results import ModelUsed
from tests.worker.engine.conftest import resolved
from worker.results.finished import Artifact, Finished
from worker.results.spool import Spool

JOB, OTHER = "0000000000000000-0000", "0000000000000000-0001"


def finished(folder: Path, *, image: bytes = b"picture") -> Finished:
    frame = folder / "0001.jpeg"
    frame.write_bytes(b"frame")
    return Finished(
        spec=resolved(),
        model=ModelUsed(name="m", source="/m", revision=None),
        dtype="float32",
        warnings=("a word was cut",),
        timings={"render": 1.5},
        artifacts=(
            Artifact("image.png", "image/png", image),
            Artifact("trace/0001.jpeg", "image/jpeg", frame),
        ),
    )


def contents(one: Finished) -> dict[str, bytes]:
    return {artifact.name: artifact.read() for artifact in one.artifacts}


def test_what_is_kept_is_found_by_another_worker(tmp_path: Path) -> None:
    original = finished(tmp_path)
    kept = Spool(tmp_path / "spool").keep(JOB, "asked", original)
    found = Spool(tmp_path / "spool").find(JOB, "asked")

    assert found == kept
    assert contents(found) == contents(original)
    assert (found.spec, found.model, found.warnings, found.timings) == (
        original.spec,
        original.model,
        original.warnings,
        original.timings,
    )


def test_a_job_that_asks_for_something_else_finds_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.keep(JOB, "asked", finished(tmp_path))
    assert spool.find(JOB, "something else") is None
    assert spool.find(OTHER, "asked") is None


def test_damage_is_noticed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.keep(JOB, "asked", finished(tmp_path))
    (tmp_path / "spool" / JOB / "image.png").write_bytes(b"pic")
    assert spool.find(JOB, "asked") is None


def test_it_is_bounded_and_what_does_not_fit_stays_in_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", limit=1_000)
    original = finished(tmp_path, image=bytes(2_000))
    assert spool.keep(JOB, "asked", original) is original
    assert spool.find(JOB, "asked") is None


def test_a_disk_that_cannot_be_written_keeps_it_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    original = finished(tmp_path)
    assert Spool(tmp_path / "file" / "spool").keep(JOB, "asked", original) is original


def test_what_is_over_or_old_is_swept_away_and_the_rest_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for job in (JOB, OTHER):
        spool.keep(job, "asked", finished(tmp_path))
    (tmp_path / "spool" / ".half written").mkdir()
    os.utime(tmp_path / "spool" / ".half written", (0, 0))

    spool.sweep(lambda job: job == JOB)

    assert [path.name for path in (tmp_path / "spool").iterdir()] == [OTHER]

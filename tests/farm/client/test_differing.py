"""How two pictures differ, and what is told of why."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm import keys
from farm.bucket.results import JobResult, ModelUsed, ResultObject
from farm.cli.commands.rerun import _told
from farm.client import FarmClient
from farm.client.differing import difference, with_result
from farm.client.rerun import Made, picture_file, picture_of
from farm.jobs.request import JobRequest
from tests.farm.client.test_rerun import png, rendered
from tests.farm.rendering import render

JOB = keys.job_in_batch("0" * 16, 0)
MINE = ModelUsed(name="mine", source="farm:mine@" + "a" * 16, revision=None)
IN_A_FOLDER = ModelUsed(name="mine", source="/models/mine", revision=None)
ONE_FILE = ModelUsed(name="mine", source="/models/mine.safetensors", revision=None, sha256="a" * 64)
OF_THE_HUB = ModelUsed(name="mine", source="hub:owner/mine@main", revision="a")


def made(data: bytes, model: ModelUsed | None, **versions: str) -> Made:
    """A picture, with its result if its model is known."""
    spec = rendered(model="mine")
    if model is None:
        return Made(data, spec)
    key = keys.attempt_object(JOB, 1, "image.png")
    image = ResultObject(key=key, sha256="0" * 64, size=len(data), content_type="image/png")
    said: dict[str, Any] = {"device": "cpu", "dtype": "float32", "timings": {}, "warnings": (), "versions": versions}
    result = JobResult(
        job=JOB, batch="0" * 16, attempt=1, worker="w1", spec=spec, objects={"image.png": image}, model=model,
        finished=datetime.now(UTC), **said,
    )  # fmt: skip
    return Made(data, spec, result)


def test_equal_pictures_do_not_differ() -> None:
    found = difference(made(png(), None), made(png(), MINE))

    assert (found.same_bytes, found.pixels, found.most, found.mean) == (True, 0.0, 0, 0.0)
    assert [*_told(JOB, "mine", found)] == [f"{JOB}  the same bytes"]


def test_a_difference_is_measured() -> None:
    then, now = Image.new("RGB", (64, 64), (10, 20, 30)), Image.new("RGB", (64, 64), (10, 20, 30))
    now.paste((10, 25, 27), (0, 0, 32, 32))
    files = []
    for picture in (then, now):
        file = io.BytesIO()
        picture.save(file, "PNG")
        files.append(file.getvalue())

    found = difference(*(made(data, None) for data in files))

    assert (found.same_bytes, found.pixels, found.most) == (False, 0.25, 5)
    assert found.mean == pytest.approx((5 + 3) / 3 / 4)


def test_pictures_of_other_sizes_differ_altogether() -> None:
    found = difference(made(png(), None), made(png(side=128), None))

    assert (found.pixels, found.most) == (1.0, 255)


OTHER_WEIGHTS = "the model 'mine' has other weights than it had then"
DETERMINISTIC = "only workers with --deterministic"
MAY_BE = "no result says which weights were in /models/mine: they may have been others then"
WHY: dict[str, tuple[ModelUsed | None, ModelUsed, str, str | None]] = {
    "replaced in the farm": (MINE, MINE.model_copy(update={"source": "farm:mine@" + "b" * 16}), OTHER_WEIGHTS, None),
    "another file": (ONE_FILE, ONE_FILE.model_copy(update={"sha256": "b" * 64}), OTHER_WEIGHTS, None),
    "another autoencoder": (
        MINE.model_copy(update={"vae_sha256": "a" * 64}),
        MINE.model_copy(update={"vae_sha256": "b" * 64}),
        OTHER_WEIGHTS,
        None,
    ),
    "another revision": (OF_THE_HUB, OF_THE_HUB.model_copy(update={"revision": "b"}), OTHER_WEIGHTS, None),
    "the same weights elsewhere": (ONE_FILE, ONE_FILE.model_copy(update={"source": "/b"}), "then /models", None),
    "the same": (MINE, MINE, DETERMINISTIC, None),
    "a folder": (IN_A_FOLDER, IN_A_FOLDER, MAY_BE, DETERMINISTIC),
    "nobody knows": (None, MINE, "what it was made then is not known", None),
}


@pytest.mark.parametrize("case", WHY)
def test_what_is_known_of_why_is_told_and_nothing_else(case: str) -> None:
    then, now, said, also = WHY[case]
    lines = [*_told(JOB, "mine", difference(made(png(), then), made(png((9, 9, 9)), now)))][1:]

    assert any(said in line for line in lines), lines
    assert any(OTHER_WEIGHTS in line for line in lines) == (said == OTHER_WEIGHTS)
    assert any(DETERMINISTIC in line for line in lines) == (DETERMINISTIC in (said, also))


def test_versions_that_differ_are_told() -> None:
    found = difference(made(png(), MINE, torch="1"), made(png((9, 9, 9)), MINE, torch="2"))
    assert found.versions == {"torch": ("1", "2")}
    assert [*_told(JOB, "mine", found)][1:] == ["  torch        then 1, now 2"]


def test_a_file_that_is_called_by_its_job_has_that_job_s_result(client: FarmClient, tmp_path: Path) -> None:
    [job] = client.submit([JobRequest(prompt="a cat", model="emoji", seed=1)]).jobs
    render(client, job)
    kept = picture_of(client, job)
    file = tmp_path / f"{job}.png"
    file.write_bytes(kept.data)
    found = picture_file(file)

    assert with_result(client, found, file).result == client.result(job)
    assert with_result(client, found, tmp_path / f"cat {job}.png").result == client.result(job)
    assert with_result(client, found, tmp_path / "cat.png").result is None
    assert with_result(client, found, tmp_path / f"{JOB}.png").result is None, "the farm has no such job"
    assert with_result(client, replace(found, data=b"other"), file).result is None

"""Previews as those who look get them: read with care, and only of what runs."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from farm import keys
from farm.bucket.preview import Preview
from farm.cli.view.looking import AT_ONCE, Looking
from farm.client import FarmClient
from farm.errors import ObjectDamaged, ObjectMissing
from tests.ledgers import BATCH, job
from tests.waiting import eventually

JOB = job().id


def preview(name: str = JOB, step: int = 3) -> Preview:
    picture = Image.linear_gradient("L").resize((12, 8)).convert("RGB")
    return Preview(name, 1, step, (96, 64), picture)


def png(about: str | None, size: tuple[int, int] = (8, 8)) -> bytes:
    info = PngInfo()
    if about is not None:
        info.add_text("render-farm-preview", about)
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


ABOUT = {"job": JOB, "attempt": 1, "step": 3, "size": [64, 64]}
BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    + chunk(b"tEXt", b"render-farm-preview\0" + json.dumps(ABOUT | {"size": [2048, 2048]}).encode())
    + chunk(b"IDAT", zlib.compress(bytes(1_000)))
    + chunk(b"IEND", b"")
)

RUBBISH = {
    "nothing": b"",
    "no picture": b"not a picture",
    "a JPEG": b"\xff\xd8\xff\xe0" + bytes(100),
    "half a file": preview().to_png()[:60],
    "pixels that are missing": preview().to_png()[:-40],
    "a picture of something else": png(None),
    "no JSON": png("{"),
    "a tower of JSON": png("[" * 100_000),
    "a list": png("[]"),
    "no size": png(json.dumps({"job": JOB, "attempt": 1, "step": 3})),
    "a word for a step": png(json.dumps(ABOUT | {"step": "many"})),
    "an endless step": png('{"job": "' + JOB + '", "attempt": 1, "step": 1e999, "size": [64, 64]}'),
    "a step of many digits": png(json.dumps(ABOUT | {"step": "9" * 5_000})),
    "three sides": png(json.dumps(ABOUT | {"size": [64, 64, 64]})),
    "a job that climbs": png(json.dumps(ABOUT | {"job": "../../etc/passwd"})),
    "a size that would fill the memory": png(json.dumps(ABOUT | {"size": [10**6, 10**6]})),
    "more pixels than the picture will have": png(json.dumps(ABOUT), (65, 64)),
    "a bomb": BOMB,
}


def test_a_preview_is_read_as_it_was_written() -> None:
    original = preview()
    read = Preview.from_png(original.to_png(), key="k")

    assert (read.job, read.moment, read.size) == (original.job, original.moment, original.size)
    assert read.picture.tobytes() == original.picture.tobytes()
    assert read.enlarged().size == (96, 64)


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH.keys())
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ObjectDamaged, match="k is not a preview"):
        Preview.from_png(data, key="k")


@pytest.fixture
def running(client: FarmClient) -> str:
    """A job that a worker holds."""
    client.storage.ensure_bucket()
    client.ledger.create(BATCH, [job(0), job(1)])
    assert client.ledger.claim(JOB, "w1")
    client.storage.delete(keys.preview(JOB))
    return JOB


def test_only_running_jobs_that_have_a_preview_are_seen(client: FarmClient, running: str) -> None:
    waiting = job(1).id
    assert client.previews([running, waiting]) == {}

    for name in (running, waiting):
        client.storage.put(keys.preview(name), preview(name).to_png(), "image/png")

    assert {name: found.step for name, found in client.previews([running, waiting]).items()} == {running: 3}


@pytest.mark.parametrize(
    "data",
    [b"rubbish", preview(job(1).id).to_png(), preview().to_png() + bytes(2**20)],
    ids=["rubbish", "another job's", "a huge object"],
)
def test_what_is_no_preview_of_the_job_is_not_seen(client: FarmClient, running: str, data: bytes) -> None:
    client.storage.put(keys.preview(running), data, "image/png")

    assert client.previews([running]) == {}


def test_looking_is_what_the_worker_hears_of(client: FarmClient, running: str) -> None:
    assert not client.ledger.renew("w1", [(running, 1, 1)]).previewed

    client.previews([running])

    assert client.ledger.renew("w1", [(running, 1, 2)]).previewed == {(running, 1)}


def test_cancelling_a_job_removes_its_preview(client: FarmClient, running: str) -> None:
    client.previews([running])
    client.storage.put(keys.preview(running), preview().to_png(), "image/png")

    client.cancel([running])

    with pytest.raises(ObjectMissing):
        client.storage.get(keys.preview(running))


def test_a_folder_that_was_made_to_look_is_gone_when_nothing_is_in_it(client: FarmClient, tmp_path: Path) -> None:
    for place in (tmp_path / "a" / "live", tmp_path):
        looking = Looking(client, place)
        with looking:
            assert place.is_dir()
        assert list(tmp_path.iterdir()) == []


def test_so_many_are_looked_at_and_the_running_ones_first(client: FarmClient) -> None:
    jobs = [job(index) for index in range(AT_ONCE + 5)]
    client.ledger.create(BATCH, jobs)
    assert client.ledger.claim(jobs[-1].id, "w1")
    client.ledger.cancel(jobs[0].id)
    looking = Looking(client, None)
    list(looking.following(client.ledger.get_many([one.id for one in jobs])))

    previewed = looking._worth_a_look()

    assert previewed == [jobs[-1].id, *(one.id for one in jobs[1:AT_ONCE])]


def test_what_keeps_previews_from_being_had_is_told_at_the_end_and_ends_nothing(
    client: FarmClient, running: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client.storage.put(keys.preview(running), preview().to_png(), "image/png")
    folder = tmp_path / "a file by now"
    folder.touch()
    with Looking(client, folder) as looking:
        followed = list(looking.following(client.ledger.get_many([running])))
        eventually(lambda: looking.previews, "there is something to keep")
        eventually(lambda: looking._trouble, "it cannot be kept")

    assert [status.id for status in followed] == [running]
    assert "previews were not up to date" in capsys.readouterr().err
    assert folder.is_file()

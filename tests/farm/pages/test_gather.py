"""What of a job's objects comes onto a page: whole and checked, within bounds, and a word on all the rest."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from farm.bucket.fetch import read
from farm.errors import FetchRefused, StorageError
from farm.pages import gather as gathering
from farm.pages.gather import Seen, gather
from farm.pages.settings import settings
from farm.web.index.entry import Entry
from tests.fakes.storage import FakeStorage
from tests.farm.pages import made_up


def gathered(changed: Mapping[str, bytes | None] | None = None, **fields: Any) -> Seen:
    storage = FakeStorage()
    return gather(storage, made_up.put(storage, made_up.spec(**fields), changed=changed))


def test_all_that_a_traced_job_left_is_gathered() -> None:
    made = made_up.objects(made_up.spec(steps=20, start=12))
    seen = gathered(steps=20, start=12)
    assert not seen.remarks
    assert [frame.step for frame in seen.frames] == list(range(12, 20))
    assert seen.frames_kept == 8
    assert [frame.data for frame in seen.frames] == [made[f"trace/{step:04d}.jpeg"] for step in range(12, 20)]
    assert (seen.picture, seen.start, seen.video) == (made["image.png"], made["trace/start.jpeg"], None)


GROWN = {"outpaint": {"left": 16, "bottom": 8}}
ALONE = {"mask": {"sha256": "b" * 64, "extension": "png"}, "only_masked": 4}


@pytest.mark.parametrize(("how", "size"), [(GROWN, (96, 72)), (ALONE, (80, 64))], ids=["grown", "alone"])
def test_a_picture_that_keeps_its_own_size_is_shown_with_that(how: dict[str, Any], size: tuple[int, int]) -> None:
    image = {"sha256": "a" * 64, "extension": "png", "width": 80, "height": 64}
    start = {"image": image, "step": 4, **how}
    width, height = size
    data = made_up.picture(width=width, height=height)
    seen = gathered({"image.png": data}, start=start)
    assert (seen.picture, seen.faults, len(seen.frames)) == (data, [], 8)
    assert ("size of the picture", f"{width}×{height} pixels") in settings(seen.result.spec)
    entry = Entry.of(seen.result, key="k", labels={})
    assert entry and (entry.width, entry.height) == size
    assert gathered(start=start).faults == ["image.png is left out: it is a picture of 64×64 pixels."]
    unknown = {**start, "image": {"sha256": "a" * 64, "extension": "png"}}
    assert gathered({"image.png": data}, start=unknown).picture == data


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("none", "This job kept no trace: 'farm submit … --trace frames' keeps numbers and pictures of its steps."),
        ("numbers", "Its trace has numbers alone: 'farm submit … --trace frames' keeps pictures of the steps too."),
    ],
)
def test_a_job_without_frames_says_how_to_have_them(level: str, told: str) -> None:
    seen = gathered(level=level)
    assert [remark.text for remark in seen.remarks] == [told]
    assert (seen.frames, seen.faults) == ((), [])


JPEG = made_up.picture("JPEG", width=2 * made_up.SIDE)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("trace/0003.jpeg", b"<svg onload=alert(1)>", "trace/0003.jpeg is left out: it is no JPEG picture."),
        ("trace/0003.jpeg", made_up.picture("PNG", shade=3), "trace/0003.jpeg is left out: it is no JPEG picture."),
        ("trace/0003.jpeg", b"", "trace/0003.jpeg is left out: it is no JPEG picture."),
        (
            "trace/0003.jpeg",
            made_up.picture("JPEG", width=64),
            "trace/0003.jpeg is left out: it is a picture of 64×64 pixels.",
        ),
        ("image.png", JPEG, "image.png is left out: it is no PNG picture."),
        ("trace.mp4", b"<html>", "trace.mp4 is left out: it is no MP4 file."),
        (
            "trace.jsonl",
            b"x" * 50_000,
            f"trace.jsonl is left out: it has 50,000 bytes, more than {12 * 4_096:,}.",
        ),
        ("trace/start.jpeg", b"GIF89a", "trace/start.jpeg is left out: it is no JPEG picture."),
    ],
    ids=["script", "png", "empty", "small", "jpeg", "html", "long", "gif"],
)
def test_what_is_not_what_its_name_says_is_left_out(name: str, data: bytes, told: str) -> None:
    seen = gathered({name: data}, steps=12)
    assert seen.faults == [told]
    assert data not in (seen.picture, seen.start, seen.video)
    assert len(seen.frames) == (11 if name == "trace/0003.jpeg" else 12)


def test_an_object_that_was_changed_grown_or_removed_is_left_out() -> None:
    storage = FakeStorage()
    result = made_up.put(storage, made_up.spec(steps=12))
    key = {name: stored.key for name, stored in result.objects.items()}
    storage.objects[key["trace/0001.jpeg"]] = bytes(reversed(storage.objects[key["trace/0001.jpeg"]]))
    storage.objects[key["trace.jsonl"]] = b"{}\n" * 2**20
    storage.delete(key["trace/0002.jpeg"])

    seen = gather(storage, result)

    assert [frame.step for frame in seen.frames] == [0, *range(3, 12)]
    assert seen.steps == ()
    refused, changed, gone = seen.faults
    assert "trace.jsonl has 3,145,728 bytes, more than" in refused
    assert "0001.jpeg does not match the checksum in its result." in changed
    assert "there is no such object" in gone
    with pytest.raises(FetchRefused, match="does not match the checksum"):
        read(storage, result.objects["trace/0001.jpeg"])


def test_what_is_said_to_have_a_gigabyte_is_not_even_asked_for() -> None:
    storage = FakeStorage()
    result = made_up.put(storage, made_up.spec(steps=12))
    huge = result.objects["trace.jsonl"].model_copy(update={"size": 2**30})
    storage.delete(huge.key)
    result = result.model_copy(update={"objects": {**result.objects, "trace.jsonl": huge}})
    assert gather(storage, result).faults == [
        f"trace.jsonl is left out: it has {2**30:,} bytes, more than {12 * 4_096:,}."
    ]


def test_a_bucket_that_is_away_is_an_error() -> None:
    storage = FakeStorage()
    result = made_up.put(storage, made_up.spec())
    storage.outage.begin()
    with pytest.raises(StorageError):
        gather(storage, result)


def test_of_very_many_frames_every_nth_and_the_last_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MAX_FRAMES", 5)
    seen = gathered(steps=12)
    assert [frame.step for frame in seen.frames] == [0, 3, 6, 9, 11]
    assert seen.frames_kept == 12
    assert [remark.text for remark in seen.remarks] == [
        "5 of its 12 frames are here, one of every 3 and the last: "
        "all have 0.0 MiB, and 'farm fetch … --all' brings them."
    ]


def test_large_frames_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(made_up.objects(made_up.spec(steps=12))["trace/0000.jpeg"])
    monkeypatch.setattr(gathering, "MAX_FRAMES_BYTES", 5 * size)
    seen = gathered(steps=12)
    assert sum(len(frame.data) for frame in seen.frames) <= 5 * size
    assert [frame.step for frame in seen.frames][-1] == 11
    apart = {after - before for before, after in itertools.pairwise([frame.step for frame in seen.frames][:-1])}
    assert len(apart) == 1


def test_frames_of_no_step_of_the_job_are_passed_over() -> None:
    stray = {"trace/0012.jpeg": JPEG, "trace/0003.jpeg": None}
    assert [frame.step for frame in gathered(stray, steps=12).frames] == [0, 1, 2, *range(4, 12)]

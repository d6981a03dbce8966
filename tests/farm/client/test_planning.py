"""Drafting requests and planning their jobs, with no farm at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from farm.client import planning
from farm.client.planning import Pictures, draft, drafted, dry_run, images_of, plan
from farm.errors import InvalidInput
from farm.jobs.losses import BUILTIN, LossDeclaration
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, Start
from farm.pictures.images import MAX_BYTES, InitImage, check_init

BATCH = "0kz3mw7c9d2f4g5h"


@pytest.fixture(autouse=True)
def _no_farm(away_from_any_farm: None) -> None: ...


def otter(**fields: object) -> JobRequest:
    return JobRequest.parse({"prompt": "an otter", "seed": 1, **fields})


@pytest.fixture
def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 32), "teal").save(file, "PNG")
    return file.getvalue()


def test_bytes_make_the_jobs_that_their_file_makes(picture: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture)

    (of_bytes,), (of_a_file,) = (dry_run([otter(mode="img2img", init=init)]) for init in (picture, str(path)))

    assert of_bytes.spec == of_a_file.spec
    sha256 = check_init(picture, name="x").sha256
    assert of_bytes.spec.start.image == InitReference(sha256=sha256, extension="png", width=64, height=32)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "init: the init picture is not a PNG, JPEG or WebP image"),
        (b"\x89PNG nonsense", "init: the init picture is "),
        (bytes(MAX_BYTES + 1), "init: the init picture is larger than 32 MiB"),
    ],
    ids=["none", "nonsense", "too many"],
)
def test_bytes_are_bounded_and_checked_as_files_are(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{said}"):
        dry_run([otter(init=data)])


def test_json_names_a_file_whatever_it_says(picture: bytes) -> None:
    assert JobRequest.model_validate_json('{"prompt": "x", "init": "a.png"}').init == Path("a.png")
    with pytest.raises(InvalidInput, match=r"^init: \[137, 80\] should be the path of a picture$"):
        JobRequest.parse({"prompt": "x", "init": list(picture[:2])})


def test_every_distinct_picture_is_checked_once(
    picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(picture)
    checked: list[str] = []

    def noted(data: bytes, *, name: str) -> InitImage:
        checked.append(name)
        return check_init(data, name=name)

    monkeypatch.setattr(planning, "check_init", noted)
    monkeypatch.setattr(planning, "read_init", lambda path: noted(path.read_bytes(), name=path.name))
    drafts = drafted(otter(init=init) for init in (*paths, picture, *paths, bytes(bytearray(picture))))

    assert checked == ["a.png", "b.png", "the init picture"]
    assert len(images_of(drafts)) == 1, "all are the same picture"


def test_a_draft_is_planned_as_it_was_drawn() -> None:
    drafts = [draft(otter(seed=None, count=2), Pictures())]

    first, second = (plan(drafts, BATCH, default_model="emoji", declarations=BUILTIN) for _ in range(2))

    assert [job.spec for job in first] == [job.spec for job in second] == list(drafts[0].specs or ())
    assert [job.id for job in first] == [f"{BATCH}-0000", f"{BATCH}-0001"]


def test_the_farms_model_is_that_of_drafts_that_name_none() -> None:
    jobs = plan(drafted([otter(count=2), otter(model="mine")]), BATCH, default_model="theirs", declarations=BUILTIN)
    assert [job.spec.model for job in jobs] == ["theirs", "theirs", "mine"]


def test_a_default_that_cannot_be_a_models_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_MODEL", "no model")
    with pytest.raises(InvalidInput, match=r"^model: "):
        dry_run([otter()])
    assert dry_run([otter(model="mine")])[0].spec.model == "mine"


def test_losses_that_only_workers_know_wait_for_them() -> None:
    declared = LossDeclaration("warmth", "how warm it is", (), default_scale=3.0)
    (waiting,) = drafted([otter(losses=[{"name": "warmth"}])])
    assert waiting.specs is None

    (job,) = plan([waiting], BATCH, default_model="emoji", declarations=[*BUILTIN, declared])
    assert (job.spec.guidance.losses[0].name, job.spec.guidance.losses[0].scale) == ("warmth", None)
    with pytest.raises(InvalidInput, match="there is no loss 'warmth'"):
        plan([waiting], BATCH, default_model="emoji", declarations=BUILTIN)


def png(*size: int, mode: str = "L", colour: object = 255, part: tuple[int, ...] | None = None) -> bytes:
    """A picture of one colour, or black but for a part of it."""
    picture = Image.new(mode, size, 0 if part else colour)  # type: ignore[arg-type]
    if part:
        picture.paste(colour, part)  # type: ignore[arg-type]
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def start_of(**fields: object) -> Start:
    ((job,),) = (dry_run([otter(mode="img2img", **fields)]),)
    return job.spec.start


def test_a_mask_is_named_by_its_content_and_comes_along(picture: bytes) -> None:
    mask = png(64, 32, part=(0, 0, 9, 9))
    (made,) = drafted([otter(init=picture, mask=mask, redo="black", mask_blur=7, only_masked=5, fill="noise")])
    assert [image.data for image in images_of([made])] == [picture, mask]
    (job,) = plan([made], BATCH, default_model="m", declarations=BUILTIN)
    start = job.spec.start
    assert start.mask == InitReference(sha256=check_init(mask, name="x").sha256, extension="png", width=64, height=32)
    assert (start.redo, start.mask_blur, start.only_masked, start.fill) == ("black", 7, 5, "noise")


def test_what_is_transparent_is_a_mask(picture: bytes) -> None:
    seen_through = Image.new("RGBA", (64, 32), (1, 2, 3, 255))
    seen_through.paste((0, 0, 0, 0), (0, 0, 10, 10))
    file = io.BytesIO()
    seen_through.save(file, "PNG")
    (made,) = drafted([otter(init=file.getvalue(), mask="alpha")])
    assert made.mask is not None
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(made.mask.data)))[:12, 9:12], [[255, 0, 0]] * 10 + [[0] * 3] * 2
    )
    with pytest.raises(InvalidInput, match="mask: the init picture has no transparency"):
        drafted([otter(init=picture, mask="alpha")])


def test_a_full_mask_is_plain_img2img(picture: bytes) -> None:
    plain = start_of(init=picture)
    assert start_of(init=picture, mask=png(64, 32)) == plain
    assert start_of(init=picture, mask=png(64, 32, colour=0), redo="black") == plain
    assert start_of(init=picture, mask=png(64, 32), only_masked=3).mask is not None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mask": png(64, 33)}, "mask: the mask has 64×33 pixels, and the picture 64×32"),
        ({"mask": png(64, 32, colour=0)}, "mask: nothing of the picture is redone .*--invert-mask"),
        ({"mask": png(64, 32), "redo": "black"}, "mask: nothing of the picture is redone"),
        ({"mask": b"nonsense"}, "mask: the mask is not a PNG, JPEG or WebP image"),
        ({"outpaint": {"bottom": 2049}}, "outpaint.bottom: 2049: input should be less than or equal to 2048"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(picture: bytes, fields: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{said}"):
        dry_run([otter(init=picture, **fields)])


def test_a_picture_that_grows_too_large_is_refused() -> None:
    assert start_of(init=png(128, 128), outpaint="left=1920,top=1920").canvas == (2_048, 2_048)
    said = r"^outpaint: the picture would have 4,224×2,176 pixels, and a side may have at most 2,048 .*grow by less"
    with pytest.raises(InvalidInput, match=said):
        dry_run([otter(init=png(128, 128), outpaint="left=2048,right=2048,top=2048")])
    with pytest.raises(InvalidInput, match=r"^outpaint: the picture would have 64×2,049 pixels"):
        dry_run([otter(init=png(64, 32), outpaint="bottom=2017", only_masked=8, width=64, height=64)])

"""Drafting requests and planning their jobs, with no farm at all."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from farm.client import planning
from farm.client.planning import Pictures, draft, drafted, dry_run, images_of, plan
from farm.errors import InvalidInput
from farm.jobs.losses import BUILTIN, LossDeclaration
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference
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

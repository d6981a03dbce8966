"""In what several jobs differ, and what they share."""

from __future__ import annotations

from typing import Any

from farm.bucket.results import JobResult
from farm.pages.compare import named
from farm.pages.settings import Differing, compared
from tests.fakes.storage import FakeStorage
from tests.farm.pages import made_up
from tests.ledgers import BATCH


def results(*specs: dict[str, Any], **fields: Any) -> list[JobResult]:
    storage = FakeStorage()
    return [
        made_up.put(storage, made_up.spec(**given), job=f"{BATCH}-{number:04d}", **fields)
        for number, given in enumerate(specs)
    ]


def test_what_differs_has_a_value_for_each_job_and_the_rest_one_for_all() -> None:
    differing, shared = compared(results({"steps": 12}, {"steps": 20, "sampler": "euler"}, {"steps": 12}))
    assert differing == [Differing("sampler", ("lms", "euler", "lms")), Differing("steps", ("12", "20", "12"))]
    assert shared == [
        *(("prompt", "an otter × 0.75; a cat × 0.25"), ("negative", "a dog"), ("mode", "mix"), ("model", "emoji")),
        *(
            ("seed", "7"),
            ("guidance", "7.5"),
            ("size", "64×64 pixels"),
            ("prompts read", "plain"),
            ("loss", "blue × 20, every 2 steps"),
        ),
        *(("trace", "frames"), ("device", "cpu"), ("numbers", "float32"), ("weights", "bundled")),
        *(("revision", "abc"), ("render-farm", "0.1.0"), ("torch", "2.13.0")),
    ]


def test_an_autoencoder_of_another_file_is_told() -> None:
    used = {"name": "emoji", "source": "bundled#vae=/models/x.safetensors", "revision": None, "vae": "x.safetensors"}
    _, shared = compared(results({}, {}, model=used))
    assert ("autoencoder", "x.safetensors") in shared


def test_unlike_readings_and_layers_skipped_are_told() -> None:
    conditioning = {"prompts": [{"text": "an otter"}]}
    weighted = {"conditioning": {**conditioning, "reading": "weighted", "clip_skip": 2}}
    differing, _ = compared(results({"conditioning": conditioning}, weighted))
    assert differing == [Differing("prompts read", ("plain", "weighted")), Differing("clip skip", ("–", "2"))]


def test_how_pictures_were_framed_is_told() -> None:
    framed = {"original_size": {"width": 4096, "height": 2048}, "crop": {"x": 128, "y": 0}}
    differing, _ = compared(results({}, framed))
    assert differing == [
        Differing("told original size", ("–", "4096x2048")),
        Differing("told crop", ("–", "128,0")),
    ]


def test_loras_are_told_with_their_weights_and_files() -> None:
    lora = {"name": "detail", "sha256": "0123456789ab" + "f" * 52, "unet": 0.8, "text": 0.8}
    differing, _ = compared(results({"loras": [lora]}, {"loras": [lora, {"name": "x", "unet": 1, "text": 0}]}))
    detail = "detail × 0.8, file 0123456789ab…"
    assert differing == [Differing("LoRA", (detail, f"{detail}; x × unet 1, text 0"))]


def test_jobs_that_are_alike_differ_in_nothing() -> None:
    differing, shared = compared(results({}, {}))
    assert differing == []
    assert len(shared) == 18


def test_what_only_some_jobs_have_is_a_dash_for_the_others() -> None:
    blue_and_red = [{"name": "blue", "scale": 20.0}, {"name": "red", "scale": 3.0, "every": 1}]
    one = {"guidance": {"scale": 7.5, "losses": blue_and_red}, "conditioning": {"prompts": [{"text": "an otter"}]}}
    other = {"guidance": {"scale": 7.5}, "conditioning": {"prompts": [{"text": "an otter"}], "negative": "a dog"}}
    differing, _ = compared(results(one, other))
    assert {row.name: row.values for row in differing} == {
        "loss": ("blue × 20, every 5 steps; red × 3, at every step", "–"),
        "negative": ("–", "a dog"),
    }


def test_jobs_are_named_by_what_differs_as_far_as_there_is_room() -> None:
    differing = [
        Differing("prompt", ("an otter", "an otter that looks at the moon")),
        Differing("guidance", ("1", "–")),
        Differing("seed", ("12345678901", "1")),
    ]
    assert named(differing, 2) == ["A: prompt an otter, guidance 1", "B: prompt an otter that looks at…"]
    assert named([Differing("loss", ("blue × 20", "–"))], 2) == ["A: loss blue × 20", "B: no loss"]
    assert named([], 3) == ["A", "B", "C"]

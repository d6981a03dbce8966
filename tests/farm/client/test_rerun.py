"""Making a picture again: the very same spec, or one with a field changed, and how two pictures differ."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from farm.cli.main import farm as command
from farm.client.planning import Pictures, draft
from farm.client.rerun import Made, draft_again, picture_file
from farm.errors import InvalidInput
from farm.jobs.request import JobRequest
from farm.jobs.spec import Corner, JobSpec, PixelSize, ResolvedSpec
from farm.pictures.provenance import SPEC_KEY

SCALES = {"blue": 100.0}


def png(colour: tuple[int, int, int] = (10, 20, 30), spec: str | None = None, side: int = 64) -> bytes:
    file, info = io.BytesIO(), PngInfo()
    if spec is not None:
        info.add_itxt(SPEC_KEY, spec)
    Image.new("RGB", (side, side), colour).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def rendered(**fields: Any) -> JobSpec:
    """The spec that a picture says."""
    drafted = draft(JobRequest.parse({"prompt": "a cat", "seed": 7, "model": "tiny", **fields}), Pictures())
    assert drafted.specs is not None
    (spec,) = drafted.specs
    scale = 7.5 if spec.guidance.scale is None else spec.guidance.scale
    return JobSpec.from_json(ResolvedSpec.of(spec, width=64, height=64, scale=scale, loss_scales=SCALES).to_json())


def half_white() -> bytes:
    file, mask = io.BytesIO(), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(file, "PNG")
    return file.getvalue()


MASK = half_white()
KINDS: dict[str, dict[str, Any]] = {
    "txt2img": {"negative": "a dog", "sampler": "ddim", "trace": "frames", "trace_every": 3, "time_limit": 60},
    "img2img": {"mode": "img2img", "init": png(), "strength": 0.35, "fit": "pad", "encode": "mean"},
    "of the picture's size": {"mode": "img2img", "init": png(), "fit": "init"},
    "masked": {"mode": "img2img", "init": png(), "mask": MASK, "redo": "black", "mask_blur": 9, "fill": "noise"},
    "only what is masked": {"mode": "img2img", "init": png(), "mask": MASK, "only_masked": 5},
    "grown": {"mode": "img2img", "init": png(), "outpaint": "left=8"},
    "mix of thirds": {"mode": "mix", "prompt": ["a", "b", "c"], "weights": [1, 1, 1]},
    "beyond a mix": {"mode": "mix", "prompt": ["a", "b"], "mix": 1.7},
    "along the arc": {"mode": "mix", "prompt": ["a", "b"], "mix": 0.25, "path": "spherical"},
    "roundtrip": {"mode": "roundtrip", "prompt": "", "init": png(), "noise_steps": [4, 10], "encode": "mean"},
    "guided": {"mode": "guided", "losses": [{"name": "blue"}], "guidance": -0.5},
    "of a schedule": {"sampler": "DPM++ 2M SDE Karras", "eta": 0.5},
    "of a frame": {"original_size": "4096x2048", "crop": "128,0", "target_size": "64x96"},
    "plain": {"prompt": "f(x)", "reading": "plain", "clip_skip": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_unchanged_it_is_the_very_same_spec(kind: str) -> None:
    made = Made(b"", rendered(**KINDS[kind]))
    again = draft_again(made, KINDS[kind].get("init"), {}, mask=KINDS[kind].get("mask"))

    assert again.specs == (made.spec,)
    assert (again.image is None) == ("init" not in KINDS[kind])
    assert (again.mask is None) == ("mask" not in KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_changes_that_field_alone(kind: str) -> None:
    made = Made(b"", rendered(**KINDS[kind]))
    again = draft_again(made, KINDS[kind].get("init"), {"steps": 40}, mask=KINDS[kind].get("mask"))

    assert again.specs is not None
    (spec,) = again.specs
    changed = {name for name in JobSpec.model_fields if getattr(spec, name) != getattr(made.spec, name)}
    unread = {"conditioning", *(["guidance"] if kind == "roundtrip" else [])}
    assert changed - unread == {"steps"} | ({"width", "height"} if made.spec.start.fit == "init" else set())
    for name in ("negative", "reading", "clip_skip"):
        assert getattr(spec.conditioning, name) == getattr(made.spec.conditioning, name)
    for one, other in zip(spec.conditioning.prompts, made.spec.conditioning.prompts, strict=True):
        assert one.text == other.text and one.weight == pytest.approx(other.weight)


def test_another_prompt_brings_its_own_loras_and_those_of_the_option_stay() -> None:
    wanted = {"prompt": "a cat <lora:old:0.5> <lora:both:0.25>", "loras": [{"name": "kept"}, {"name": "both"}]}
    made = Made(b"", rendered(**wanted))
    [pinned] = [
        made.spec.model_copy(
            update={"loras": tuple(use.model_copy(update={"sha256": "f" * 64}) for use in made.spec.loras)}
        )
    ]
    made = Made(b"", JobSpec.from_json(pinned.to_json()))

    def loras(**changes: Any) -> dict[str, tuple[float, str | None, str]]:
        specs = draft_again(made, None, changes).specs
        assert specs
        return {use.name: (use.unet, use.sha256, use.by) for use in specs[0].loras}

    kept = {"kept": (1.0, "f" * 64, "field"), "both": (1.25, "f" * 64, "field")}
    assert loras(steps=40) == {**kept, "old": (0.5, "f" * 64, "tag")}, "the prompt is the old one"
    assert loras(prompt="a dog") == kept
    assert loras(prompt="a dog <lora:old:2> <lora:new>") == {**kept, "old": (2, None, "tag"), "new": (1, None, "tag")}
    assert loras(**{"prompt.0": "a dog"}) == kept
    assert loras(**{"loras.2.name": "other"}) == {**kept, "other": (0.5, None, "field")}


def test_pictures_that_do_not_tell_who_named_their_loras_keep_them() -> None:
    spec = rendered(loras=[{"name": "kept"}])
    assert '"by"' not in spec.to_json(), "as earlier versions wrote it"
    again = draft_again(Made(b"", spec), None, {"prompt": "a dog"})
    assert again.specs and again.specs[0].loras == spec.loras


def test_how_it_was_framed_can_be_changed() -> None:
    changes = {"crop.y": 16, "original_size": "96x64", "target_size": None}
    again = draft_again(Made(b"", rendered(**KINDS["of a frame"])), None, changes)
    assert again.specs and again.specs[0].framing == {
        "original_size": PixelSize(width=96, height=64),
        "crop": Corner(x=128, y=16),
    }
    again = draft_again(Made(b"", rendered(**KINDS["txt2img"])), None, {"crop.y": 16})
    assert again.specs and again.specs[0].framing == {"crop": Corner(y=16)}


@pytest.mark.parametrize(
    ("kind", "changes", "same_as"),
    [
        ("beyond a mix", {"mix": 0.25}, {"mix": 0.25}),
        ("mix of thirds", {"prompt": ["a", "b"]}, {"prompt": ["a", "b"], "weights": [1, 1]}),
        ("mix of thirds", {"prompt": "a", "mode": "txt2img"}, {"prompt": "a", "mode": "txt2img", "weights": None}),
        ("beyond a mix", {"weights": [1, 3]}, {"mix": 0.25}),
        ("img2img", {"strength": 0.5}, {"strength": 0.5}),
        ("img2img", {"start_step": 3}, {"start_step": 3, "strength": None}),
        ("of a schedule", {"sampler": "DPM++ 2M SDE Exponential"}, {"sampler": "DPM++ 2M SDE Exponential"}),
        ("of a schedule", {"sampler": "Euler a"}, {"sampler": "Euler a Karras"}),
    ],
)
def test_what_says_the_same_gives_way(kind: str, changes: dict[str, Any], same_as: dict[str, Any]) -> None:
    again = draft_again(Made(b"", rendered(**KINDS[kind])), KINDS[kind].get("init"), changes)
    assert again.specs is not None
    for told in ("conditioning", "start", "sampler", "schedule"):
        assert getattr(again.specs[0], told) == getattr(rendered(**KINDS[kind] | same_as), told)


def test_two_ways_at_once_are_refused() -> None:
    with pytest.raises(InvalidInput, match="give --mix or --weights, not both"):
        draft_again(Made(b"", rendered(**KINDS["beyond a mix"])), None, {"mix": 0.5, "weights": [1, 3]})


def test_a_scale_of_a_loss_can_be_changed() -> None:
    again = draft_again(Made(b"", rendered(**KINDS["guided"])), None, {"losses.0.scale": 3})

    assert again.specs and again.specs[0].guidance.losses[0].scale == 3


@pytest.mark.parametrize(
    ("kind", "init", "changes", "said"),
    [
        ("txt2img", None, {"stepz": 3}, "there is no field 'stepz' to change"),
        ("txt2img", None, {"init": "a.png"}, "there is no field 'init' to change"),
        ("txt2img", None, {"mask": "m.png"}, r"no field 'mask' to change \(--mask FILE gives the one that it had; "),
        ("txt2img", None, {"init.x": "a.png"}, r"no field 'init.x' to change \(--init FILE gives"),
        ("txt2img", None, {"outpaint.left": 32}, "no field 'outpaint.left' to change: no part of a picture was redone"),
        ("img2img", png(), {"fill": "noise"}, "no field 'fill' to change: no part of a picture was redone"),
        ("txt2img", None, {"losses.0.scale": 3}, "there is no '0' to set"),
        ("txt2img", None, {"steps": "many"}, "steps: 'many': input should be a valid integer"),
        ("txt2img", png(), {}, "it did not start from a picture"),
        ("img2img", png((9, 9, 9)), {}, "this is not the picture that it started from"),
        ("img2img", None, {}, "this is not the picture that it started from"),
    ],
)
def test_what_cannot_be_made_is_told(kind: str, init: bytes | None, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        draft_again(Made(b"", rendered(**KINDS[kind])), init, changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("outpaint.left=many", "--set outpaint.left: 'many': input should be a valid integer"),
        ("stepz=3", "--set: there is no field 'stepz'"),
        ("only-masked=-1", "--set only_masked: -1: input should be greater than or equal to 0"),
        ("guidance=much", "--set guidance: 'much': input should be a valid number"),
    ],
)
def test_a_change_is_named_as_it_was_given(change: str, said: str, tmp_path: Path) -> None:
    source, init = tmp_path / "a.png", tmp_path / "init.png"
    source.write_bytes(png(spec=rendered(**KINDS["grown"]).to_json()))
    init.write_bytes(png())

    refused = CliRunner().invoke(command, ["rerun", str(source), "--init", str(init), "--set", change, "--dry-run"])
    assert refused.exit_code == 2
    assert f"farm: {said}" in refused.stderr


def test_a_picture_with_a_mask_may_grow_when_it_is_made_again() -> None:
    made = Made(b"", rendered(**KINDS["only what is masked"]))
    again = draft_again(made, png(), {"outpaint.left": 32, "only_masked": None}, mask=MASK)

    assert again.specs and again.specs[0].start.outpaint and again.specs[0].start.outpaint.left == 32


def test_a_file_says_what_it_was_made_from(tmp_path: Path) -> None:
    spec = rendered()
    path = tmp_path / "a.png"
    path.write_bytes(png(spec=spec.to_json()))

    assert picture_file(path).spec == spec


@pytest.mark.parametrize("data", [b"", b"nonsense", png(), png(spec='{"steps": 3}'), png(spec="\x1b[31m")])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)

    with pytest.raises(InvalidInput, match="does not say how it was made"):
        picture_file(path)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be read: No such file .*name a PNG that this farm made, or a job"):
        picture_file(tmp_path / "none.png")

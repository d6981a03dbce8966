"""Init pictures of other shapes than their jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from farm.jobs.request import JobRequest
from farm.jobs.spec import MAX_SIDE, MIN_SIDE, InitReference, ResolvedSpec
from tests.fuzzing import fuzz
from worker.diffusion.fitting import cut_off, fit, own_size

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def striped() -> Image.Image:
    """300×100: a third red, a third green, a third blue, from left to right."""
    picture = Image.new("RGB", (300, 100), GREEN)
    picture.paste(RED, (0, 0, 100, 100))
    picture.paste(BLUE, (200, 0, 300, 100))
    return picture


def test_crop_shows_the_middle() -> None:
    fitted = fit(striped(), 64, 64, "crop")
    assert fitted.size == (64, 64)
    assert [fitted.getpixel((x, 32)) for x in (8, 32, 56)] == [GREEN] * 3


def test_stretch_shows_all_of_it() -> None:
    fitted = fit(striped(), 96, 96, "stretch")
    assert [fitted.getpixel((x, y)) for x in (5, 48, 90) for y in (2, 93)] == [RED, RED, GREEN, GREEN, BLUE, BLUE]


def test_pad_repeats_the_outermost_pixels() -> None:
    wide = fit(striped(), 96, 96, "pad")
    assert [wide.getpixel((x, y)) for x in (5, 48, 90) for y in (0, 48, 95)] == [RED] * 3 + [GREEN] * 3 + [BLUE] * 3
    high = fit(striped().transpose(Image.Transpose.ROTATE_270), 96, 96, "pad")
    assert [high.getpixel((x, y)) for y in (5, 48, 90) for x in (0, 48, 95)] == [RED] * 3 + [GREEN] * 3 + [BLUE] * 3


@pytest.mark.parametrize("how", ["crop", "pad", "stretch", "init"])
def test_a_picture_of_the_right_size_keeps_its_pixels(how: Any) -> None:
    picture = Image.effect_noise((72, 64), 90).convert("RGB")
    assert fit(picture, 72, 64, how).tobytes() == picture.tobytes()


@pytest.mark.long
@pytest.mark.parametrize("how", ["crop", "pad", "stretch", "init"])
@pytest.mark.parametrize("size", [(1, 20_000_000), (20_000_000, 1), (1, 1)])
def test_any_shape_is_fitted_in_moderate_memory(how: Any, size: tuple[int, int]) -> None:
    assert np.asarray(fit(Image.new("RGB", size, GREEN), 64, 128, how)).reshape(-1, 3).tolist() == [[0, 255, 0]] * 8_192


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((512, 512), (512, 512)),
        ((1_920, 1_080), (680, 384)),
        ((1_080, 1_920), (384, 680)),
        ((4_000, 3_000), (592, 440)),
        ((300, 200), (304, 200)),  # small ones are not enlarged
        ((20, 10), (128, 64)),  # but for the smallest side of a job, and then all of them
        ((40, 90), (64, 144)),
        ((1, 1), (64, 64)),
        ((10_000, 100), (2_048, 64)),  # what is longer than a job may be is cut
    ],
)
def test_a_jobs_size_comes_from_its_picture(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert own_size(*picture, most=512 * 512, multiple=8) == size


@fuzz(300)
@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from((64, 128, 512, 1_024)), st.sampled_from((8, 16)))
def test_a_size_is_one_that_a_job_may_have(width: int, height: int, side: int, multiple: int) -> None:
    size = own_size(width, height, most=side * side, multiple=multiple)
    assert all(MIN_SIDE <= extent <= MAX_SIDE and extent % multiple == 0 for extent in size)
    assert size[0] * size[1] <= side * side
    assert (size[0] <= size[1]) == (width <= height) or size[0] == size[1]


@pytest.mark.parametrize(("side", "size"), [(512, (728, 720)), (64, (88, 88)), (1_024, (1_448, 1_448))])
def test_a_picture_that_grows_is_rendered_with_at_most_twice_the_models_pixels(
    side: int, size: tuple[int, int]
) -> None:
    assert own_size(MAX_SIDE, MAX_SIDE, most=2 * side * side, multiple=8) == size
    assert size[0] * size[1] <= 2 * side * side


def spec_from(picture: tuple[int, int] | None, size: tuple[int, int], **fields: Any) -> ResolvedSpec:
    named = {} if picture is None else {"width": picture[0], "height": picture[1]}
    reference = InitReference.model_validate({"sha256": "0" * 64, "extension": "png", **named})
    request = JobRequest.parse({"prompt": "x", "init": Path("a.png"), **fields})
    (spec,) = request.specs(reference, default_model="emoji")
    return ResolvedSpec.of(spec, width=size[0], height=size[1], scale=7.5)


def test_what_is_cut_off_is_said() -> None:
    said = cut_off(spec_from((1_600, 900), (512, 512)))
    assert said == (
        "44% of the init picture's width was cut off to make 1600×900 fit 512×512 (--fit pad or stretch shows all of it"
        ", --fit init gives the job its shape)"
    )
    assert "61% of the init picture's height" in (cut_off(spec_from((1_000, 2_000), (640, 496))) or "")
    assert (cut_off(spec_from((10_000, 100), (2_048, 64), fit="init")) or "").endswith(
        "(--fit pad or stretch shows all of it)"
    )
    assert "99% of the init picture's width" in (cut_off(spec_from((4_000, 1), (512, 512))) or "")


@pytest.mark.parametrize(
    "spec",
    [
        spec_from((512, 512), (512, 512)),
        spec_from((1_024, 1_024), (512, 512)),
        spec_from((1_920, 1_080), (680, 384), fit="init"),
        spec_from((1_600, 900), (512, 512), fit="pad"),
        spec_from((1_600, 900), (512, 512), fit="stretch"),
        spec_from(None, (512, 512)),
    ],
)
def test_nothing_is_said_where_nothing_is_lost(spec: ResolvedSpec) -> None:
    assert cut_off(spec) is None

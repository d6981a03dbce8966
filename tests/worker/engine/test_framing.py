"""How a picture was framed: what a job says of it, or else its model, is what SDXL's UNet is told, row by row."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from farm.errors import InvalidInput
from farm.jobs.defaults import Defaults
from farm.jobs.spec import Corner, PixelSize
from tests.worker.diffusion.loop import Job, distance, render_by_diffusers
from tests.worker.engine.conftest import spec_of
from tests.worker.engine.test_company import latents_in_company
from worker.diffusion.losses import load_losses
from worker.engine.preparing import prepare
from worker.engine.request import RenderRequest, resolve
from worker.families.family import Frame, Size
from worker.families.sdxl import SDXLConditioning
from worker.models.model import LoadedModel

Requests = Callable[..., RenderRequest]


def told(request: RenderRequest) -> list[list[list[float]]]:
    """Of both rows: height and width of the original, what was cut off above and on the left, and the target's."""
    state = prepare(request, load_losses(), 0, Future())
    rows = (state.conditional, state.unconditional)
    return [row.sizes.tolist() for row in rows if isinstance(row, SDXLConditioning)]


@pytest.mark.long
def test_both_rows_are_told_height_before_width(request_for: Requests, xl: LoadedModel) -> None:
    plain = request_for("plain", of=xl, width=96)
    assert told(plain) == [[[64, 96, 0, 0, 64, 96]]] * 2
    framed = request_for("framed", of=xl, original_size="4096x2048", crop="128,16", target_size="1024x512")
    assert told(framed) == [[[2048, 4096, 16, 128, 512, 1024]]] * 2


def test_a_model_says_what_a_job_does_not(request_for: Requests, xl: LoadedModel) -> None:
    own: dict[str, PixelSize | Corner] = {"original_size": PixelSize(width=4096, height=4096), "crop": Corner(x=8)}
    model = replace(xl, defaults=Defaults(framing=own))
    assert told(request_for("plain", of=model)) == [[[4096, 4096, 0, 8, 64, 64]]] * 2
    asked = request_for("asked", of=model, crop="0,0", target_size="128x96")
    assert told(asked) == [[[4096, 4096, 0, 0, 96, 128]]] * 2
    assert asked.spec.framing == {
        "original_size": PixelSize(width=4096, height=4096),
        "crop": Corner(),
        "target_size": PixelSize(width=128, height=96),
    }, "the result says what was told, so that it can be made again"


@pytest.mark.parametrize("study", [{"mode": "tokens"}, {"mode": "roundtrip", "from_image": True, "prompt": ""}])
def test_a_study_makes_no_picture_that_could_be_framed(xl: LoadedModel, study: dict[str, Any]) -> None:
    model = replace(xl, defaults=Defaults(framing={"original_size": PixelSize(width=4096, height=4096)}))
    fields = dict.fromkeys(("steps", "seed", "guidance"))
    assert resolve(spec_of(**{**fields, **study}), model, load_losses()).framing == {}


@pytest.mark.parametrize(
    ("field", "value"), [("original_size", "64x64"), ("crop", "0,0"), ("target_size", {"width": 64, "height": 64})]
)
def test_a_model_that_is_not_told_refuses(model: LoadedModel, field: str, value: object) -> None:
    said = rf"^{field}: the model 'tiny' is Stable Diffusion, and only models of SDXL are told that .*leave it out"
    with pytest.raises(InvalidInput, match=said):
        resolve(spec_of(**{field: value}), model, load_losses())


@pytest.mark.long
def test_unlike_rows_of_one_forward_are_each_as_diffusers_makes_them(request_for: Requests, xl: LoadedModel) -> None:
    frames = {
        "whole": {},
        "large": {"original_size": "4096x2048"},
        "cut": {"crop": "40,8"},
        "all": {"original_size": "96x64", "crop": "16,0", "target_size": "32x48"},
    }
    requests = [request_for(name, of=xl, sampler="euler", **fields) for name, fields in frames.items()]
    made = latents_in_company(requests, padded_rows=None)
    whole = Size(64, 64)
    framed = {
        "whole": Frame(whole, whole),
        "large": Frame(Size(4_096, 2_048), whole),
        "cut": Frame(whole, whole, left=40, top=8),
        "all": Frame(Size(96, 64), Size(32, 48), left=16),
    }
    for name, frame in framed.items():
        job = Job("euler", steps=6, seed=1, prompt="a cat", frame=frame)
        assert distance(made[name][None], render_by_diffusers(xl, job)) < 1e-4, name

"""Jobs of which a mask says what is redone: their latents equal diffusers' own pipelines, alone and in company."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from farm.jobs.samplers import SamplerName
from farm.jobs.spec import InitReference, Start
from tests.tiny import build_tiny_model, build_tiny_xl
from tests.worker.diffusion.loop import scheduler_for
from tests.worker.diffusion.test_parity import gradient_picture
from worker.diffusion.latents import encode_mean
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.preparing import prepare
from worker.engine.request import RenderRequest
from worker.engine.request_state import RequestState
from worker.engine.rows import run_step
from worker.families.sdxl import SDXL
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import LocalDirectory

Make = Callable[..., RenderRequest]
TOLERANCE = 1e-4
SOME_MASK = InitReference(sha256="1" * 64, extension="png")

SAMPLERS: tuple[SamplerName, ...] = ("euler", "euler_a", "ddim", "dpmpp_2m", "heun", "dpm2", "unipc", "dpmpp_2m_sde")
CASES = [
    *((sampler, 0.6) for sampler in SAMPLERS),
    *(("euler", strength) for strength in (0.2, 1.0)),
    *((sampler, 1.0) for sampler in ("lms", "pndm", "ddim", "dpmpp_sde", "lcm")),
]
"""In mid-schedule LMS and PNDM are not diffusers': see `test_parity`."""
BY_THE_MIDDLE = ("dpm2", "dpm2_a", "dpmpp_sde")
"""Samplers that evaluate the model in the middle of a step too. There diffusers puts back the picture at the level of
the step's end, and not at the one for which the model is asked."""


def left_half(grey: int = 255) -> Image.Image:
    """White on the left, where it meets the borders of latents."""
    mask = Image.new("L", (64, 64))
    mask.paste(grey, (0, 0, 32, 64))
    return mask


def masked(
    make: Make, id: str, *, mask: Image.Image | None = None, start: dict[str, Any] | None = None, **fields: Any
) -> RenderRequest:
    """A request with a mask, whose picture is a gradient."""
    request = make(id, from_image=True, **fields)
    values = {**dict(request.spec.start), "mask": SOME_MASK, "mask_blur": 0, **(start or {})}
    spec = request.spec.model_copy(update={"start": Start.model_validate(values)})
    return replace(request, spec=spec, picture=gradient_picture(), mask=mask or left_half())


def boarded(request: RenderRequest) -> RequestState:
    return prepare(request, load_losses(), 0, Future())


def advance(states: Sequence[RequestState], padded_rows: int | None = None) -> None:
    step = run_step(states, padded_rows=padded_rows, gradient_chunk=1)
    for index, state in enumerate(states):
        state.commit(step.x[index], step.history[index], step.x0[index], step.losses[index], step.reached.get(index))


def ended(request: RenderRequest, padded_rows: int | None = None) -> Tensor:
    state = boarded(request)
    while not state.is_done:
        advance([state], padded_rows)
    return state.x


def by_diffusers(request: RenderRequest, strength: float, *, greys: bool = False) -> Tensor:
    """The job's final latents [4, h, w] by diffusers' own pipeline."""
    model, spec = request.model, request.spec
    generator = torch.Generator().manual_seed(spec.seed)
    scheduler = scheduler_for(dict(model.scheduler_config), spec.sampler)
    scheduler.draw = lambda sample: torch.randn(sample.shape, generator=generator)
    if spec.sampler in BY_THE_MIDDLE:
        put_back_at_the_middle(scheduler)
    parts: dict[str, Any] = {"vae": model.vae, "unet": model.unet, "scheduler": scheduler}
    for part, encoder in zip(model.family.encoders, model.encoders, strict=True):
        parts |= {part.folder: encoder.module, part.tokenizer: encoder.tokenizer}
    kind: Any
    if model.family is SDXL:
        kind, parts = StableDiffusionXLInpaintPipeline, {**parts, "add_watermarker": False}
        parts["force_zeros_for_empty_prompt"] = model.prompts.encode_negative("").embedding.abs().max() == 0
    else:
        kind = StableDiffusionInpaintPipeline
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    if greys:
        pipeline.mask_processor = VaeImageProcessor(
            vae_scale_factor=8, do_normalize=False, do_binarize=False, do_convert_grayscale=True
        )
    # Models of four channels have no use for what the pipeline would draw a sample of.
    unused = {} if model.reads_masks else {"masked_image_latents": torch.zeros(1, 4, 8, 8)}
    latents: Tensor = pipeline(
        spec.conditioning.prompts[0].text,
        image=request.picture,
        mask_image=request.mask,
        strength=strength,
        num_inference_steps=spec.steps,
        guidance_scale=spec.guidance.scale,
        height=64,
        width=64,
        generator=generator,
        output_type="latent",
        **unused,
    ).images
    return latents[0]


def put_back_at_the_middle(scheduler: Any) -> None:
    at_the_end = scheduler.add_noise

    def add_noise(original: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if scheduler.state_in_first_order:
            noised: Tensor = at_the_end(original, noise, timesteps)
            return noised
        middle = getattr(scheduler, "mid_point_sigma", None)
        level: Tensor = scheduler.sigmas_interpol[scheduler.step_index] if middle is None else middle
        return original + noise * level

    scheduler.add_noise = add_noise


def distance(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.mark.long
@pytest.mark.parametrize(("sampler", "strength"), CASES)
def test_latents_are_those_of_diffusers(request_for: Make, sampler: SamplerName, strength: float) -> None:
    request = masked(request_for, "job", sampler=sampler, steps=5, seed=7, strength=strength, guidance=4.0)
    assert distance(ended(request), by_diffusers(request, strength)) < TOLERANCE


@pytest.mark.parametrize(("sampler", "strength"), [("euler", 0.6), ("dpmpp_2m", 1.0)])
def test_latents_of_sdxl_are_those_of_diffusers(
    request_for: Make, xl: LoadedModel, sampler: SamplerName, strength: float
) -> None:
    request = masked(request_for, "job", of=xl, sampler=sampler, steps=5, seed=7, strength=strength, guidance=4.0)
    assert distance(ended(request), by_diffusers(request, strength)) < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm2", "pndm", "dpmpp_sde"])
def test_grey_is_redone_partly_also_where_a_step_has_two_evaluations(request_for: Make, sampler: SamplerName) -> None:
    strength = 1.0 if sampler == "pndm" else 0.6
    request = masked(request_for, "job", mask=left_half(128), sampler=sampler, steps=5, seed=7, strength=strength)
    latents = ended(request)
    assert distance(latents, by_diffusers(request, strength, greys=True)) < TOLERANCE
    assert distance(latents, ended(replace(request, mask=left_half()))) > 100 * TOLERANCE


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def painter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """An inpainting model of each family, as they are published."""
    build, folder = {"sd": build_tiny_model, "sdxl": build_tiny_xl}[request.param], tmp_path_factory.mktemp("painter")
    build(folder, unet={"in_channels": 9})  # type: ignore[operator]
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = index["_class_name"].replace("Pipeline", "InpaintPipeline")
    (folder / "model_index.json").write_text(json.dumps(index))
    return ModelLoader(place("cpu"), cache=folder / "cache").load("painter", LocalDirectory(folder))


@pytest.mark.long
@pytest.mark.parametrize(("sampler", "strength"), [("euler", 0.6), ("euler_a", 1.0), ("heun", 0.3), ("dpmpp_2m", 0.8)])
def test_latents_of_an_inpainting_model_are_those_of_diffusers(
    request_for: Make, painter: LoadedModel, sampler: SamplerName, strength: float
) -> None:
    request = masked(request_for, "job", of=painter, sampler=sampler, steps=5, seed=7, strength=strength, guidance=4.0)
    assert boarded(request).kept is None
    assert distance(ended(request), by_diffusers(request, strength)) < TOLERANCE


@pytest.mark.long
def test_an_inpainting_model_has_latents_of_four_channels(painter: LoadedModel) -> None:
    assert (painter.latent_shape, painter.row_shape, painter.reads_masks) == ((4, 8, 8), (9, 8, 8), True)
    assert painter.recorded is not None
    conditioning = painter.conditioned(painter.prompts.encode("a cat"))
    rows, timesteps = torch.linspace(-1, 1, 9 * 64).view(1, 9, 8, 8), torch.tensor([500.0])
    assert painter.recorded.fits(rows, conditioning)
    expected = replace(painter, recorded=None).predict(rows, timesteps, conditioning)
    assert distance(painter.predict(rows, timesteps, conditioning), expected) < TOLERANCE


def test_without_a_mask_an_inpainting_model_reads_that_all_is_masked(request_for: Make, painter: LoadedModel) -> None:
    """As A1111 asks it: a mask of ones, and the latents of grey."""
    plain = boarded(request_for("job", of=painter, steps=3, seed=7))
    assert plain.beside is not None
    assert bool((plain.beside[0] == 1).all())
    grey = encode_mean(painter.vae, torch.full((1, 3, 64, 64), 0.5))[0]
    assert torch.equal(plain.beside[1:], grey)
    fields: dict[str, Any] = {"of": painter, "steps": 3, "strength": 0.7, "seed": 7, "encode": "mean"}
    img2img = request_for("job", from_image=True, **fields)
    full = masked(request_for, "job", mask=Image.new("L", (64, 64), 255), **fields)
    assert torch.equal(ended(replace(img2img, picture=gradient_picture())), ended(full))


@pytest.mark.long
def test_an_inpainting_models_jobs_keep_their_bits_in_company(request_for: Make, painter: LoadedModel) -> None:
    some = ("a half", "grey, of two evaluations", "a fill of noise")
    requests = [masked(request_for, name, of=painter, **MASKED[name]) for name in some]
    requests += [request_for(name, of=painter, **fields) for name, fields in OTHERS.items()]
    together = in_company(requests, 8)
    for request in requests:
        assert torch.equal(ended(request, 8), together[request.id]), request.id
    state = boarded(requests[0])
    advance([state])
    assert torch.equal(ended(replace(requests[0], resume=state.snapshot())), ended(requests[0]))


def test_rows_of_an_inpainting_model_can_take_turns(request_for: Make, painter: LoadedModel) -> None:
    state = boarded(masked(request_for, "job", of=painter, steps=4, strength=0.5))
    together, apart = (
        run_step([state], padded_rows=None, gradient_chunk=1, row_by_row=row_by_row).x for row_by_row in (False, True)
    )
    assert distance(together, apart) < TOLERANCE


def test_what_is_kept_ends_as_the_picture_and_the_rest_does_not(request_for: Make) -> None:
    request = masked(request_for, "job", sampler="dpmpp_2m", steps=6, strength=0.8, seed=3)
    state = boarded(request)
    assert state.kept is not None
    while not state.is_done:
        advance([state])
    assert torch.equal(state.x[:, :, 4:], state.kept.latents[:, :, 4:])
    assert distance(state.x[:, :, :4], state.kept.latents[:, :, :4]) > 0.01


MASKED: dict[str, dict[str, Any]] = {
    "a half": {"sampler": "euler", "strength": 0.6, "steps": 7, "seed": 31},
    "grey, of two evaluations": {"sampler": "heun", "mask": left_half(99), "strength": 0.8, "steps": 5, "seed": 32},
    "from nothing": {"sampler": "dpmpp_sde", "strength": 1.0, "steps": 4, "seed": 33},
    "a fill of noise": {"sampler": "euler_a", "start": {"fill": "noise"}, "strength": 0.7, "steps": 6, "seed": 34},
    "under a loss": {"losses": [{"name": "blue", "every": 2}], "strength": 0.9, "steps": 6, "seed": 35},
}
OTHERS: dict[str, dict[str, Any]] = {
    "without a mask": {"sampler": "euler", "from_image": True, "strength": 0.6, "steps": 7, "seed": 31},
    "from noise": {"sampler": "dpm2", "guidance": 1.0, "steps": 5, "seed": 36},
}


def in_company(requests: Sequence[RenderRequest], padded_rows: int) -> dict[str, Tensor]:
    """Jobs join a step apart, and share forwards of at most half as many jobs as there are rows, in changing order."""
    waiting = [boarded(request) for request in requests]
    flying: list[RequestState] = []
    finished: dict[str, Tensor] = {}
    while waiting or flying:
        flying = [*flying[1:], *flying[:1], *waiting[:1]]
        waiting = waiting[1:]
        advance(flying[: padded_rows // 2], padded_rows)
        finished |= {state.id: state.x for state in flying if state.is_done}
        flying = [state for state in flying if not state.is_done]
    return finished


@pytest.mark.long
def test_a_jobs_bits_depend_on_no_others_mask(request_for: Make) -> None:
    requests = [masked(request_for, name, **fields) for name, fields in MASKED.items()]
    requests += [request_for(name, **fields) for name, fields in OTHERS.items()]
    together = in_company(requests, 8)
    for request in requests:
        assert torch.equal(ended(request, 8), together[request.id]), request.id
    assert distance(together["a half"], together["without a mask"]) > 0.01


@pytest.mark.long
@pytest.mark.parametrize("name", MASKED)
def test_a_job_that_goes_on_elsewhere_has_its_mask_again(request_for: Make, name: str) -> None:
    request = masked(request_for, name, **MASKED[name])
    state = boarded(request)
    while state.position < 2:
        advance([state])
    if state.plan.evaluations[2] > 1:
        advance([state])  # in the midst of a step
    snapshot = state.snapshot()
    assert torch.equal(ended(replace(request, resume=snapshot)), ended(request))


def test_a_fill_of_noise_begins_without_the_picture(request_for: Make) -> None:
    """At a level at which the picture would show through, what is masked begins with as much noise as there can be."""
    fields: dict[str, Any] = {"sampler": "ddim", "steps": 10, "strength": 0.3, "seed": 5}
    plain, filled = (
        boarded(masked(request_for, "job", start={"fill": fill}, **fields)) for fill in ("original", "noise")
    )
    assert torch.equal(plain.x[:, :, 4:], filled.x[:, :, 4:])
    assert filled.kept is not None
    shown = (filled.x - filled.plan.start_sigma * filled.kept.noise) / filled.plan.start_alpha
    assert distance(shown[:, :, :4], filled.kept.latents[:, :, :4]) > 1
    assert float(shown[:, :, :4].std()) == pytest.approx(1, abs=0.2)


def test_the_engine_renders_them_side_by_side(engines: Callable[..., Engine], request_for: Make) -> None:
    engine = engines(deterministic=True)
    requests = [masked(request_for, name, **fields) for name, fields in MASKED.items()]
    requests += [request_for(name, **fields) for name, fields in OTHERS.items()]
    pixels = [future.result(60).pixels for future in [engine.submit(request) for request in requests]]
    alone = engine.submit(replace(requests[0], id="again")).result(60).pixels
    assert np.array_equal(pixels[0], alone)

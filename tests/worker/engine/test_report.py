"""What a job tells of how its picture came to be, against a loop written with diffusers alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LMSDiscreteScheduler
from PIL import Image
from torch import Tensor

from tests.worker.diffusion.loop import scheduler_for
from worker.engine.engine import Engine
from worker.engine.request import Pixels, Rendered, RenderRequest, SilentObserver, StepRecord, Suspended
from worker.models.model import LoadedModel

Make = Callable[..., RenderRequest]
_LONGEST = 60


class Hearing(SilentObserver):
    """Keeps all that it is told, and does `then` after step `at`."""

    def __init__(self, at: int = 0, then: Callable[[], None] = lambda: None) -> None:
        self._at, self._then = at, then
        self.records: list[StepRecord] = []
        self.starts: list[Pixels] = []
        self.losses: list[dict[str, float]] = []

    def on_step(self, done: int) -> None:
        if done == self._at:
            self._then()

    def on_losses(self, values: Mapping[str, float]) -> None:
        self.losses.append(dict(values))

    def on_start(self, frame: Pixels) -> None:
        self.starts.append(frame)

    def on_trace(self, record: StepRecord, _: Pixels | None) -> None:
        self.records.append(record)


@dataclass
class Reference:
    """A job as a notebook has it: its picture [h, w, 3], and per step the tensors that a trace measures."""

    x: list[Tensor] = field(default_factory=list)
    x_next: list[Tensor] = field(default_factory=list)
    x0: list[Tensor] = field(default_factory=list)
    conditional: list[Tensor] = field(default_factory=list)
    unconditional: list[Tensor] = field(default_factory=list)
    output: list[Tensor] = field(default_factory=list)
    picture: Pixels = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))


@torch.no_grad()
def by_hand(
    model: LoadedModel, *, guidance: float, steps: int = 6, seed: int = 1, start: int = 0, latent: Tensor | None = None
) -> Reference:
    """u + g·(c − u) and LMS, from noise or from a latent that is noised with the seed's first draw."""
    found = Reference()
    scheduler: Any = LMSDiscreteScheduler.from_config(dict(model.scheduler_config))
    scheduler.set_timesteps(steps)
    noise = torch.randn((1, *model.latent_shape), generator=torch.Generator().manual_seed(seed))
    timesteps = scheduler.timesteps[start:]
    x = noise * scheduler.init_noise_sigma if latent is None else scheduler.add_noise(latent, noise, timesteps[:1])
    embeddings = torch.cat([embedded(model, text) for text in ("", "a cat")])
    for timestep in timesteps:
        found.x.append(x)
        rows = scheduler.scale_model_input(torch.cat([x] * 2), timestep)
        unconditional, conditional = model.unet(rows, timestep, encoder_hidden_states=embeddings).sample.chunk(2)
        output = unconditional + guidance * (conditional - unconditional)
        step = scheduler.step(output, timestep, x)
        x = step.prev_sample
        found.conditional.append(conditional)
        found.unconditional.append(unconditional)
        found.output.append(output)
        found.x0.append(step.pred_original_sample)
        found.x_next.append(x)
    decoded = model.vae.decode(x / model.vae.config["scaling_factor"]).sample[0]
    found.picture = (255 * (decoded / 2 + 0.5).clamp(0, 1)).round().permute(1, 2, 0).byte().numpy()
    return found


def embedded(model: LoadedModel, text: str) -> Tensor:
    ids = model.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    embedding: Tensor = model.text_encoder(ids).last_hidden_state
    return embedding


def render(engine: Engine, request: RenderRequest, observer: Any = None) -> Rendered:
    return engine.submit(replace(request, observer=observer or SilentObserver())).result(_LONGEST)


def levels(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.fixture
def engine(engines: Callable[..., Engine]) -> Iterator[Engine]:
    yield engines()


@pytest.mark.long
@pytest.mark.parametrize("guidance", [-1.0, 0.0, 0.5, 1.0, 7.5])
def test_every_guidance_scale_means_what_the_formula_says(
    engine: Engine, request_for: Make, model: LoadedModel, guidance: float
) -> None:
    rendered = render(engine, request_for("j", guidance=guidance))

    assert levels(rendered.pixels, by_hand(model, guidance=guidance).picture) <= 1


def test_the_numbers_of_a_trace_are_those_of_the_tensors(engine: Engine, request_for: Make, model: LoadedModel) -> None:
    heard, truth = Hearing(), by_hand(model, guidance=7.5)
    render(engine, request_for("j", trace="numbers"), heard)

    assert len(heard.records) == len(truth.x) == 6
    for index, record in enumerate(heard.records):
        c, u = truth.conditional[index].double(), truth.unconditional[index].double()
        for name, norm in record.norms.items():
            near = 1e-5 if name.startswith("x") else 1e-3  # a step of this model moves its latents by a thousandth
            assert norm == pytest.approx(float(getattr(truth, name)[index].norm()), rel=near), (index, name)
        assert record.guidance is not None
        assert record.guidance["distance"] == pytest.approx(float((c - u).norm()), rel=1e-3)
        cosine = float((c * u).sum() / (c.norm() * u.norm()))
        assert record.guidance["angle"] == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-2, abs=1e-3)
        if index:
            change = float((truth.x0[index] - truth.x0[index - 1]).norm())
            assert record.x0_change == pytest.approx(change, rel=1e-3)
    assert heard.records[0].x0_change is None


def test_without_guidance_there_is_one_prediction(engine: Engine, request_for: Make) -> None:
    heard = Hearing()
    render(engine, request_for("j", guidance=1.0, trace="numbers"), heard)

    assert all(record.norms.keys() == {"x", "x_next", "x0", "output"} for record in heard.records)
    assert all(record.guidance is None for record in heard.records)


def test_the_mean_of_a_picture_leaves_the_first_draw_to_the_noise(
    engine: Engine, request_for: Make, model: LoadedModel, picture: Image.Image
) -> None:
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        latent = model.vae.encode(2 * pixels - 1).latent_dist.mean * model.vae.config["scaling_factor"]
    truth = by_hand(model, guidance=7.5, start=2, latent=latent).picture

    mean = render(engine, request_for("mean", from_image=True, start_step=2, encode="mean"))
    sample = render(engine, request_for("sample", from_image=True, start_step=2))

    assert levels(mean.pixels, truth) <= 2
    assert levels(sample.pixels, truth) > 8


def test_a_trace_shows_the_noised_picture_that_a_job_starts_from(
    engine: Engine, request_for: Make, model: LoadedModel, picture: Image.Image
) -> None:
    heard, plain = Hearing(), Hearing()
    request = request_for("j", from_image=True, start_step=2, encode="mean", trace="frames", trace_every=3)
    render(engine, request, heard)
    render(engine, request_for("plain", trace="frames"), plain)

    [start] = heard.starts
    assert start.shape == (64, 128, 3)
    assert np.array_equal(start[:, 64:], np.asarray(picture))
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        scheduler: Any = scheduler_for(dict(model.scheduler_config), "lms")
        scheduler.set_timesteps(6)
        latent = model.vae.encode(2 * pixels - 1).latent_dist.mean * model.vae.config["scaling_factor"]
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
        noised = scheduler.add_noise(latent, noise, scheduler.timesteps[2:3])
        decoded = model.vae.decode(noised / model.vae.config["scaling_factor"]).sample[0]
    truth = (255 * (decoded / 2 + 0.5).clamp(0, 1)).round().permute(1, 2, 0).byte().numpy()
    assert levels(start[:, :64], truth) <= 1
    assert not plain.starts


def test_all_values_of_losses_are_kept_without_a_trace(engine: Engine, request_for: Make) -> None:
    losses = [{"name": "blue", "scale": 5.0, "every": 2}, {"name": "symmetry", "scale": 1.0, "every": 3}]
    heard = Hearing()
    rendered = render(engine, request_for("j", mode="guided", losses=losses), heard)

    kept = rendered.report.losses
    assert {name: [step for step, _ in values] for name, values in kept.items()} == {
        "blue": [0, 2, 4],
        "symmetry": [0, 3],
    }
    assert [set(values) for values in heard.losses] == [{"blue", "symmetry"}, {"blue"}, {"symmetry"}, {"blue"}]
    assert [values["blue"] for values in heard.losses if "blue" in values] == [value for _, value in kept["blue"]]


def test_a_report_says_what_the_encoder_read_and_the_noise_levels(
    engine: Engine, request_for: Make, model: LoadedModel
) -> None:
    fields = {"mode": "mix", "prompt": ("a cat", "apple " * 100), "weights": (3, 1), "negative": "the apple"}
    fields["reading"] = "plain"
    report = render(engine, request_for("j", **fields)).report

    first, second, negative = report.prompts
    assert [(read.role, read.weight) for read in report.prompts] == [
        ("prompt", 0.75),
        ("prompt", 0.25),
        ("negative", 1),
    ]
    for read, text in ((first, "a cat"), (negative, "the apple")):
        assert [token.id for token in read.tokens] == model.tokenizer(text, add_special_tokens=False).input_ids
        assert [token.piece for token in read.tokens] == model.tokenizer.tokenize(text)
        assert (read.cut, read.chunks) == ((), (len(read.tokens),))
    assert len(second.tokens) == model.prompts.tokens - 2
    assert second.cut and set(second.cut) == {"apple"}
    scheduler: Any = scheduler_for(dict(model.scheduler_config), "lms")
    scheduler.set_timesteps(6)
    assert report.schedule is not None
    assert report.schedule.timesteps == pytest.approx(scheduler.timesteps.tolist())
    assert report.schedule.sigmas == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-5)


def test_a_report_says_which_tokens_are_in_which_chunk_and_what_they_weigh(engine: Engine, request_for: Make) -> None:
    rendered = render(engine, request_for("j", prompt="(cat " * 2 + "otter:1.5) " * 80, negative="a [dog]"))

    prompt, negative = rendered.report.prompts
    assert rendered.warnings == () and prompt.cut == ()
    assert [len(chunk) for chunk in prompt.by_chunk] == list(prompt.chunks)
    assert sum(prompt.chunks) == len(prompt.tokens) > 75
    assert [(token.piece, round(token.weight, 3)) for token in prompt.tokens[:3]] == [
        ("cat</w>", 1.65),
        ("cat</w>", 1.65),
        ("otter</w>", 1.65),
    ] or prompt.tokens[0].weight != 1
    assert [token.weight for token in negative.tokens if token.weight != 1]


def test_a_resumed_job_tells_what_it_would_have_told_in_one_go(
    engines: Callable[..., Engine], request_for: Make
) -> None:
    fields: dict[str, Any] = {
        "mode": "guided",
        "losses": [{"name": "blue", "scale": 5.0, "every": 2}],
        "trace": "numbers",
        "steps": 8,
    }
    engine = engines(deterministic=True)
    whole = Hearing()
    report = render(engine, request_for("whole", **fields), whole).report
    first, second = Hearing(at=3, then=engine.suspend_all), Hearing()
    suspended = engine.submit(replace(request_for("j", **fields), observer=first)).exception(_LONGEST)
    assert isinstance(suspended, Suspended)

    resumed = replace(request_for("again", **fields), resume=suspended.snapshot)
    again = render(engines(deterministic=True), resumed, second).report

    assert [*first.records, *second.records] == whole.records
    assert json.loads(again.model_dump_json()) == json.loads(report.model_dump_json())

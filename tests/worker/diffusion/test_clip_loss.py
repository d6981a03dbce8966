"""Guidance by CLIP, and losses that see more than the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel

from farm.errors import FarmError, RenderError
from farm.jobs.losses import Argument, LossDeclaration
from farm.jobs.spec import ResolvedLossTerm, WeightedPrompt
from tests.tiny import build_tiny_clip
from worker.diffusion.clip_loss import ClipSimilarity
from worker.diffusion.latents import decode, loss_gradient
from worker.diffusion.losses import Losses, Moment, WeightedLoss, load_losses
from worker.models.model import LoadedModel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipSimilarity:
    return ClipSimilarity(folder, CPU)


def said(*prompts: tuple[str, float]) -> tuple[WeightedPrompt, ...]:
    return tuple(WeightedPrompt(text=text, weight=weight) for text, weight in prompts)


def noise(width: int, height: int) -> Tensor:
    """Smooth, as pictures are: what interpolates differently hardly shows."""
    small = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear")


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 80), (24, 24)])
def test_it_is_what_clip_itself_says(clip: ClipSimilarity, folder: Path, size: tuple[int, int]) -> None:
    images = noise(*size)
    model: Any = CLIPModel.from_pretrained(folder)
    picture = Image.fromarray((images[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    side = model.config.vision_config.image_size
    prepared = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})(
        picture, return_tensors="pt"
    )
    ids = clip._tokenizer("a red cat", padding="max_length", return_tensors="pt")
    with torch.no_grad():
        out = model(**prepared, **ids)
        expected = 1 - float(torch.cosine_similarity(out.image_embeds, out.text_embeds))
        found = float(clip(images, prompts=said(("a red cat", 1.0))))
    assert found == pytest.approx(expected, abs=5e-3)


def test_a_mix_is_a_direction_between_its_prompts(clip: ClipSimilarity) -> None:
    cat, otter, both = (
        clip._text(prompts) for prompts in ((("cat", 1.0),), (("otter", 1.0),), (("cat", 0.5), ("otter", 0.5)))
    )
    torch.testing.assert_close(both, torch.nn.functional.normalize(cat + otter, dim=-1))
    assert float(both.norm()) == pytest.approx(1)


def test_its_gradient_leads_to_what_is_more_alike(clip: ClipSimilarity, tiny_model: LoadedModel) -> None:
    x0 = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    term, moment = WeightedLoss(clip, {}, 1.0), replace(seen(), prompts=said(("a cat", 1.0)))
    gradient, [[before]] = loss_gradient(tiny_model.vae, x0, [[term]], [moment])
    with torch.no_grad():
        nearer = x0 - 0.3 * gradient / gradient.norm()
        after = float(clip(decode(tiny_model.vae, nearer), prompts=moment.prompts))
    assert after < before


def test_a_folder_without_a_clip_is_told(tmp_path: Path) -> None:
    with pytest.raises(FarmError, match=r"there is no CLIP in .* \(FARM_CLIP names a folder"):
        ClipSimilarity(tmp_path, CPU)


class Curious:
    """It remembers what it was given."""

    needs: tuple[str, ...] = ("x0", "latents", "timestep", "embedding", "prompts")
    declaration = LossDeclaration("curious", "sees all", (Argument("gain", 1.0, 0.0, 9.0, "how much"),), 1.0)

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def __call__(self, images: Tensor, *, gain: float, x0: Tensor, **others: Any) -> Tensor:
        self.given.append({**others, "x0": x0, "images": images})
        return gain * x0.square().sum(dim=(1, 2, 3))


def seen() -> Moment:
    return Moment(torch.ones((1, 4, 8, 8)), torch.tensor([400.0]), torch.zeros((1, 77, 32)), said(("a cat", 1.0)))


def test_a_loss_is_given_what_it_needs_of_its_own_job(tiny_model: LoadedModel) -> None:
    x0 = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    curious = Curious()
    blue = load_losses([]).term(ResolvedLossTerm(name="blue", scale=1.0))
    terms = [[WeightedLoss(curious, {"gain": 3.0}, 0.5)], [blue]]
    gradient, values = loss_gradient(tiny_model.vae, x0, terms, [seen(), seen()])

    torch.testing.assert_close(gradient[0], 3.0 * x0[0], msg="by the latents themselves")
    assert values[0] == [pytest.approx(3.0 * float(x0[0].square().sum()))]
    [given] = curious.given
    assert torch.equal(given["x0"].detach(), x0[:1]) and given["timestep"].item() == 400
    assert (given["prompts"], given["embedding"].shape) == (seen().prompts, (1, 77, 32))


def test_the_engine_gives_it(tiny_model: LoadedModel) -> None:
    from concurrent.futures import Future

    from farm.jobs.request import JobRequest
    from worker.engine.preparing import prepare
    from worker.engine.request import RenderRequest, resolve
    from worker.engine.rows import run_step

    curious = Curious()
    losses = Losses([curious])
    fields = {"prompt": ["a cat", "an otter"], "mode": "mix", "mix": 0.25, "seed": 1, "steps": 3}
    request = JobRequest.parse({**fields, "losses": [{"name": "curious", "every": 1}]})
    [spec] = request.specs(None, default_model="tiny", declarations=losses.declarations)
    job = RenderRequest("x", resolve(spec, tiny_model, losses), tiny_model)
    state = prepare(job, losses, 0, Future())
    run_step([state], padded_rows=None, gradient_chunk=1)

    [given] = curious.given
    assert torch.equal(given["latents"][0], state.x), "before the step, and before it was moved"
    assert given["timestep"].item() == pytest.approx(999)
    assert torch.equal(given["embedding"], tiny_model.prompts.mix(spec.conditioning.prompts).embedding)
    assert [prompt.weight for prompt in given["prompts"]] == [0.25, 0.75]


def unknown(loss: Curious) -> None:
    loss.needs = ("colour",)


def of_the_same_name(loss: Curious) -> None:
    loss.declaration = LossDeclaration("curious", "x", (Argument("timestep", 1.0, 0.0, 9.0, "x"),), 1.0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(unknown, "it needs 'colour', and a loss is given x0, latents"), (of_the_same_name, "its argument 'timestep'")],
)
def test_a_plugin_that_needs_what_there_is_not_is_named(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Curious], None], message: str
) -> None:
    loss = Curious()
    spoil(loss)
    monkeypatch.setattr(EntryPoint, "load", lambda _: loss)
    with pytest.raises(FarmError, match=message):
        load_losses([EntryPoint(name="mine", value="x:y", group="farm.losses")])


def test_one_that_fails_fails_its_job_alone() -> None:
    with pytest.raises(RenderError, match="the loss 'curious' failed"):
        WeightedLoss(Curious(), {"gain": 1.0}, 1.0).evaluate(torch.zeros((1, 3, 8, 8)), None, seen())

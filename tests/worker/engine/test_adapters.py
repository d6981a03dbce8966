"""Jobs under adapters are what a model with these in its weights renders: alone, in unlike company, in all modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from tests.adapters import adapter, attention, everything, fused, nothing, transformers
from tests.worker.diffusion.loop import Job, render_by_diffusers
from tests.worker.engine.test_company import latents_alone
from worker.diffusion.adapters import Stack, Use
from worker.engine.engine import Engine
from worker.engine.request import RenderRequest
from worker.models.model import LoadedModel

Engines = Callable[..., Engine]
Request = Callable[..., RenderRequest]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small lose more by waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["sd", "sdxl"])
def family(request: pytest.FixtureRequest, model: LoadedModel, xl: LoadedModel) -> LoadedModel:
    """A model of each family."""
    return {"sd": model, "sdxl": xl}[request.param]


def of_attention(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 1, unet=attention)),)


def of_blocks(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 2, unet=transformers, rank=7), unet=-0.7),)


def of_all_layers(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 3, rank=2), unet=1.3),)


def of_text_alone(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 4, unet=nothing, text=everything)),)


def of_text_and_unet_apart(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 5, text=everything, rank=3), unet=0.4, text=-1.2),)


def but_for_the_text(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 5, text=everything), text=0.0),)


def but_for_the_unet(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 5, text=everything), unet=0.0),)


def of_two(model: LoadedModel) -> Stack:
    return (*of_all_layers(model), *of_blocks(model))


def of_one_twice(model: LoadedModel) -> Stack:
    (use,) = of_attention(model)
    return replace(use, unet=0.25), replace(use, unet=0.5)


def of_dora(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 6, unet=attention, text=everything, magnitude=True), unet=0.6, text=0.5),)


def of_dora_and_another(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 7, rank=5, magnitude=True)), *of_blocks(model))


def of_keys_of_prompts(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 8, unet=lambda path: "attn2.to_k" in path, size=2.0)),)


STACKS = (
    of_attention,
    of_blocks,
    of_all_layers,
    of_text_alone,
    of_text_and_unet_apart,
    but_for_the_text,
    but_for_the_unet,
    of_two,
    of_one_twice,
    of_dora,
    of_dora_and_another,
    of_keys_of_prompts,
)


@pytest.mark.parametrize("stack_of", STACKS)
def test_latents_are_those_of_diffusers_with_the_adapters_in_the_weights(
    request_for: Request, family: LoadedModel, stack_of: Callable[[LoadedModel], Stack]
) -> None:
    stack = stack_of(family)
    request = replace(request_for("job", of=family, sampler="euler", steps=4, negative="red"), stack=stack)

    expected = render_by_diffusers(fused(family, stack), Job("euler", 4, seed=1, prompt="a cat", negative="red"))
    found = latents_alone(request, padded_rows=None)

    assert float((found - expected[0]).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max()))
    plain = latents_alone(replace(request, stack=()), padded_rows=None)
    assert float((found - plain).abs().max()) > 2e-3, "it changes the picture"

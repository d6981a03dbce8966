"""The layers for GPUs, as far as a CPU computes them: their numbers, their layout, and what they leave to PyTorch.

Their kernels are held to float64 by `python -m tests.gpu`, on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from torch.nn import functional as F

from tests.adapters import adapter
from worker.diffusion.adapters import Use
from worker.diffusion.adapting import Adapting
from worker.diffusion.conditioning import Conditioning
from worker.models import fused
from worker.models.fused import ChannelsLastTransformer, FusedGEGLU, FusedGroupNorm, PointwiseConv2d, fuse
from worker.models.model import LoadedModel


class Kernels:
    """What the kernels compute, in PyTorch."""

    calls = 0

    def group_norm(self, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        self.calls += 1
        return F.group_norm(x, groups, weight, bias, eps).contiguous(memory_format=torch.channels_last)

    def gated(self, x: Tensor) -> Tensor:
        self.calls += 1
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    kernels = Kernels()
    monkeypatch.setattr(fused, "_kernels", lambda *_: kernels)
    monkeypatch.setattr(FusedGroupNorm, "kernels", kernels, raising=False)
    monkeypatch.setattr(FusedGEGLU, "kernels", kernels, raising=False)
    yield kernels


def in_channels_last(unet: Any) -> Any:
    """A copy of a UNet, as it is on a GPU."""
    return deepcopy(unet).to(memory_format=torch.channels_last)


def of_channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


@pytest.fixture(params=["sd", "sdxl"])
def family(request: pytest.FixtureRequest, tiny_model: LoadedModel, tiny_xl: LoadedModel) -> LoadedModel:
    """A model of each family: their transformers project their tokens in unlike ways."""
    return {"sd": tiny_model, "sdxl": tiny_xl}[request.param]


@pytest.mark.long
@torch.no_grad()
def test_a_unet_of_fused_layers_gives_the_same_numbers_and_never_leaves_channels_last(
    family: LoadedModel, kernels: Kernels
) -> None:
    unet = in_channels_last(family.unet)
    names = [name for name, _ in unet.named_parameters()]
    rows = of_channels_last(torch.randn((3, *family.row_shape), generator=torch.Generator().manual_seed(0)))
    text = family.conditioned(family.prompts.encode("a cat"), cached=True)
    given = Conditioning.stacked([text] * 3).arguments
    before = unet(rows, torch.tensor([10.0, 500.0, 900.0]), **given).sample
    fuse(unet)
    layouts: list[str] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor | tuple[Tensor]) -> None:
        pictures = (given[0], out if isinstance(out, Tensor) else out[0])
        if not all(picture.is_contiguous(memory_format=torch.channels_last) for picture in pictures):
            layouts.append(type(layer).__name__)

    for layer in unet.modules():
        if isinstance(layer, (FusedGroupNorm, PointwiseConv2d, ChannelsLastTransformer)):
            layer.register_forward_hook(note)
    after = unet(rows, torch.tensor([10.0, 500.0, 900.0]), **given).sample

    assert (after - before).abs().max() < 1e-5 * before.abs().max()
    assert not layouts
    assert [name for name, _ in unet.named_parameters()] == names
    kinds = {type(layer) for layer in unet.modules()}
    assert {FusedGroupNorm, FusedGEGLU, PointwiseConv2d, ChannelsLastTransformer} <= kinds
    assert kernels.calls > 10


@torch.no_grad()
def test_adapters_add_to_fused_layers_what_they_add_to_others(tiny_model: LoadedModel, kernels: Kernels) -> None:
    model = tiny_model
    unet = in_channels_last(model.unet)
    launched = replace(model, unet=unet, adapting=Adapting(unet, model.cross_attention), recorded=None)
    rows, timesteps = torch.randn((2, *model.row_shape)), torch.tensor([100.0, 700.0])
    text = Conditioning.stacked([model.conditioned(model.prompts.encode("a cat"))] * 2)
    stack = (Use(adapter(model, 1, magnitude=True)),)
    before = launched.predict(rows, timesteps, text, [launched.adapting.of(stack), None])
    fuse(unet)
    after = launched.predict(rows, timesteps, text, [launched.adapting.of(stack), None])

    assert (after - before).abs().max() < 1e-5 * before.abs().max()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.GroupNorm(4, 8), (2, 8, 4, 4)), (GEGLU(8, 16), (2, 5, 8)), (nn.Conv2d(8, 4, 1), (2, 8, 4, 4))],
    ids=["norm", "gate", "pointwise"],
)
def test_what_is_differentiated_is_left_to_pytorch(kernels: Kernels, layer: nn.Module, shape: tuple[int, ...]) -> None:
    own = deepcopy(layer).requires_grad_(False)
    fuse(own)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    one, other = ((of_channels_last(x) if x.dim() == 4 else x.clone()).requires_grad_() for _ in range(2))
    own(one).square().sum().backward()
    layer(other).square().sum().backward()

    assert type(own) is not type(layer)
    assert one.grad is not None and other.grad is not None
    assert torch.allclose(one.grad, other.grad, atol=1e-6)
    assert not kernels.calls


@torch.no_grad()
def test_what_is_not_in_channels_last_is_left_to_pytorch(kernels: Kernels) -> None:
    norm, x = nn.GroupNorm(4, 8), torch.randn(2, 8, 6)
    fuse(norm)
    assert torch.equal(norm(x), F.group_norm(x, 4, norm.weight, norm.bias, norm.eps))
    assert not kernels.calls


def test_without_kernels_norms_and_gates_are_pytorchs_and_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    fused._kernels.cache_clear()  # asked once a process
    broken = SimpleNamespace(triton_kernels=SimpleNamespace(group_norm=fail, gated=fail))
    monkeypatch.setitem(sys.modules, "worker.models.triton_kernels", broken.triton_kernels)
    monkeypatch.setattr("worker.models.triton_kernels", broken.triton_kernels, raising=False)
    layers = nn.Sequential(nn.GroupNorm(4, 8), GEGLU(8, 8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, stride=2))
    fuse(layers)

    assert [type(layer) for layer in layers] == [nn.GroupNorm, GEGLU, PointwiseConv2d, nn.Conv2d]
    (warning,) = caplog.messages
    assert "Failed to find C compiler" in warning
    fused._kernels.cache_clear()

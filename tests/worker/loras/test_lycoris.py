"""What LyCORIS' forms add to a layer, against their formulas (Yeh et al. 2023, arXiv:2309.14859) written out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from farm.lora_keys import UNET
from tests.worker.loras.written import Named, applied, numbers, save
from worker.loras.layers import Layer, layers_of
from worker.loras.reading import read_adapter
from worker.models.model import LoadedModel

ALPHA, EPS = 3.0, torch.finfo(torch.float32).eps
NAMES = {
    "linear": "down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj",
    "wide": "down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2",
    "of the prompt": "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v",
    "kernel": "mid_block_resnets_0_conv1",
    "growing kernel": "down_blocks_1_resnets_0_conv1",
    "kernel of one": "down_blocks_0_attentions_0_proj_in",
    "first": "conv_in",
    "last": "conv_out",
}

Form = Callable[[tuple[int, ...]], tuple[Named, Tensor]]
"""What a file has for a weight of a shape, and what that adds, at a scale of 1."""


def flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], torch.Size(shape[1:]).numel()


def kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[2:]


def locon(rank: int) -> Form:
    def form(shape: tuple[int, ...]) -> tuple[Named, Tensor]:
        out, into = shape[:2]
        ones = (1,) * len(kernel(shape))
        down, up = numbers(rank, into, *ones, seed=1), numbers(out, rank, *ones, seed=2)
        mid = numbers(rank, rank, *kernel(shape), seed=3)
        added = torch.einsum("om,mn...,ni->oi...", up.flatten(1), mid, down.flatten(1))
        return {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}, added

    return form


def lora(rank: int) -> Form:
    def form(shape: tuple[int, ...]) -> tuple[Named, Tensor]:
        down, up = numbers(rank, *shape[1:], seed=1), numbers(shape[0], rank, seed=2)
        return {"lora_down.weight": down, "lora_up.weight": up}, (up @ down.flatten(1)).reshape(shape)

    return form


def loha(rank: int) -> Form:
    def form(shape: tuple[int, ...]) -> tuple[Named, Tensor]:
        out, into = flat(shape)
        a1, b1 = numbers(out, rank, seed=1), numbers(rank, into, seed=2)
        a2, b2 = numbers(out, rank, seed=3), numbers(rank, into, seed=4)
        added = ((a1 @ b1) * (a2 @ b2)).reshape(shape)
        return {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}, added

    return form


def loha_tucker(rank: int) -> Form:
    def form(shape: tuple[int, ...]) -> tuple[Named, Tensor]:
        tensors: Named = {}
        halves = []
        for number in (1, 2):
            core = numbers(rank, rank, *kernel(shape), seed=number)
            a, b = numbers(rank, shape[0], seed=3 + number), numbers(rank, shape[1], seed=6 + number)
            tensors |= {f"hada_t{number}": core, f"hada_w{number}_a": a, f"hada_w{number}_b": b}
            halves.append(torch.einsum("ij...,jr,ip->pr...", core, b, a))
        return tensors, halves[0] * halves[1]

    return form


def lokr(rank: int | None, first_rank: int | None = None, *, tucker: bool = False, parts: int = 4) -> Form:
    """`parts` of what the layer gives; None: a full matrix."""

    def form(shape: tuple[int, ...]) -> tuple[Named, Tensor]:
        rows, columns = min(parts, shape[0]), 2
        small = (shape[0] // rows, shape[1] // columns)
        tensors: Named = {}
        if first_rank is None:
            tensors["lokr_w1"] = one = numbers(rows, columns, seed=1)
        else:
            a, b = numbers(rows, first_rank, seed=2), numbers(first_rank, columns, seed=3)
            tensors |= {"lokr_w1_a": a, "lokr_w1_b": b}
            one = a @ b
        if rank is None:
            tensors["lokr_w2"] = two = numbers(*small, *kernel(shape), seed=4)
        elif tucker:
            core = numbers(rank, rank, *kernel(shape), seed=5)
            a, b = numbers(rank, small[0], seed=6), numbers(rank, small[1], seed=7)
            tensors |= {"lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}
            two = torch.einsum("ij...,ip,jr->pr...", core, a, b)
        else:
            a, b = numbers(small[0], rank, seed=8), numbers(rank, flat((1, small[1], *kernel(shape)))[1], seed=9)
            tensors |= {"lokr_w2_a": a, "lokr_w2_b": b}
            two = (a @ b).reshape(*small, *kernel(shape))
        return tensors, torch.kron(one.reshape(*one.shape, *(1,) * len(kernel(shape))), two.contiguous())

    return form


FORMS: dict[str, tuple[Form, int | None]] = {
    "LoRA": (lora(4), 4),
    "LoRA of a high rank": (lora(40), 40),
    "LoCon in three": (locon(4), 4),
    "LoHa": (loha(2), 2),
    "LoHa of a high rank": (loha(9), 9),
    "LoHa in Tucker's form": (loha_tucker(3), 3),
    "LoKr": (lokr(2), 2),
    "LoKr of a high rank": (lokr(12), 12),
    "LoKr of two products": (lokr(1, 1), 1),
    "LoKr of a product with a full one": (lokr(None, 3), 3),
    "LoKr in Tucker's form": (lokr(3, tucker=True), 3),
    "LoKr of full matrices": (lokr(None), None),
    "LoKr of long full matrices": (lokr(None, parts=16), None),
}


def layer(model: LoadedModel, kind: str) -> Layer:
    return layers_of(model)[UNET, NAMES[kind]]


def added(model: LoadedModel, path: Path, kind: str, parts: Named) -> Tensor:
    """A layer's weight with what a file of these parts adds to it."""
    save(path, {f"lora_unet_{NAMES[kind]}.{part}": value for part, value in parts.items()})
    ((found, factors),) = read_adapter(path, "style", "0" * 64, model).unet.items()
    assert found == layer(model, kind).path
    assert factors.up.shape[1] == len(factors.down) <= max(40, *flat(tuple(layer(model, kind).weight.shape)))
    return applied(layer(model, kind).weight.detach(), factors)


@pytest.mark.long
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("case", FORMS)
def test_every_form_adds_what_its_formula_says(case: str, kind: str, sd: LoadedModel, tmp_path: Path) -> None:
    form, rank = FORMS[case]
    weight = layer(sd, kind).weight.detach()
    parts, delta = form(tuple(weight.shape))
    scale = 1.0 if rank is None else ALPHA / rank  # full matrices are as they were trained
    own = added(sd, tmp_path / "x.safetensors", kind, {**parts, "alpha": torch.tensor(ALPHA)})
    assert (own - (weight + scale * delta)).abs().max() < 1e-5
    assert (own - weight).abs().max() > 1e-3


@pytest.mark.parametrize(("case", "rank"), [("LoHa", 4), ("LoHa in Tucker's form", 9), ("LoKr", 4)])
def test_products_of_low_ranks_stay_of_low_rank(case: str, rank: int, sd: LoadedModel, tmp_path: Path) -> None:
    parts, _ = FORMS[case][0](tuple(layer(sd, "kernel").weight.shape))
    save(tmp_path / "x.safetensors", {f"lora_unet_{NAMES['kernel']}.{part}": value for part, value in parts.items()})
    (factors,) = read_adapter(tmp_path / "x.safetensors", "style", "0" * 64, sd).unet.values()
    assert (factors.up.shape, factors.down.shape) == ((64, rank), (rank, 64, 3, 3))


@pytest.mark.long
@pytest.mark.parametrize("case", ["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("side", ["outputs", "inputs"])
def test_norms_of_dora_are_of_outputs_or_of_inputs(
    side: str, kind: str, case: str, sd: LoadedModel, tmp_path: Path
) -> None:
    form, rank = FORMS[case]
    weight = layer(sd, kind).weight.detach()
    parts, delta = form(tuple(weight.shape))
    whole = weight + (ALPHA / (rank or 1)) * delta
    ones = (1,) * len(kernel(tuple(weight.shape)))
    if side == "outputs":
        shape: tuple[int, ...] = (weight.shape[0], 1, *ones)
        norms = whole.flatten(1).norm(dim=1).reshape(shape)
    else:
        shape = (1, weight.shape[1], *ones)
        norms = whole.transpose(0, 1).flatten(1).norm(dim=1).reshape(shape)
    magnitude = numbers(*shape, seed=30).abs() + 0.5
    own = added(sd, tmp_path / "x.safetensors", kind, {**parts, "alpha": torch.tensor(ALPHA), "dora_scale": magnitude})
    assert (own - whole * magnitude / (norms + EPS)).abs().max() < 1e-5

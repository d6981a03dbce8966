"""From what a file says of a layer to the factors of what is added to its weight. Shapes fit or `ValueError` is raised,
also for tensors without numbers, so that a file can be tried before it is read.

Every form that files have is a product of low rank, if its parts are put together rightly:

| form | of | added to the weight |
| --- | --- | --- |
| LoRA | Hu et al. 2021, arXiv:2106.09685 | up·down |
| LoCon, of a convolution in three | Yeh et al. 2023, arXiv:2309.14859 | Σ mid[m, n, k, l]·up[o, m]·down[n, i] |
| LoHa | the same | (up₁·down₁) ⊙ (up₂·down₂), of rank r₁·r₂ |
| LoKr | the same | (up₁·down₁) ⊗ (up₂·down₂), of rank r₁·r₂ |

Where the product of the ranks is not below both sides of the weight, the sum itself is one factor, and an identity the
other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.diffusion.adapters import Factors

Parts = Mapping[str, Tensor]
"""What a file says of a layer, by part (see `farm.lora_keys.Key`), without its alpha; in float32."""

ALPHA = "alpha"
_OF_RANK = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
_MAGNITUDES = ("magnitude", "dora_scale")
_FORMS: tuple[frozenset[str], ...] = (
    frozenset({"down", "up"}),
    frozenset({"down", "up", "lora_mid"}),
    frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
    frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}),
    *(
        frozenset({*first, *second})
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"), ("lokr_w2_a", "lokr_w2_b", "lokr_t2"))
    ),
)


class Unfit(ValueError):
    """A part of another shape than goes with a layer."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(f"{part} {why}")
        self.part = part


@dataclass(frozen=True)
class _Product:
    """A matrix [rows, *columns] as `up` [rows, rank] times `down` [rank, *columns]."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def whole(self) -> Tensor:
        return (self.up @ self.down.flatten(1)).reshape(len(self.up), *self.down.shape[1:])

    @property
    def most(self) -> int:
        """The rank that no matrix of these sides is above."""
        return min(len(self.up), math.prod(self.down.shape[1:]))


def rank_of(parts: Mapping[str, Sequence[int]]) -> int | None:
    """The rank by which alpha is divided, by the shapes of parts; None: alpha says nothing, as of a LoKr of full
    matrices. Raises `ValueError` unless the parts are those of a form."""
    present = {part for part in parts if part not in (ALPHA, *_MAGNITUDES)}
    if present not in _FORMS:
        raise ValueError(_incomplete(present))
    for part in sorted(present):
        if len(parts[part]) not in (2, 4) or 0 in parts[part]:
            raise ValueError(f"{part} has the shape {tuple(parts[part])}")
    return next((parts[part][0] for part in _OF_RANK if part in parts), None)


def _incomplete(present: set[str]) -> str:
    whole = min(_FORMS, key=lambda form: (-len(form & present), len(form ^ present), sorted(form)))
    if lacking := sorted(whole - present):
        return f"it has {', '.join(sorted(present))} and no {', '.join(lacking)}"
    return f"{', '.join(sorted(present))} do not go together"


def factors_of(parts: Parts, scale: float, weight: Tensor) -> Factors:
    """What the parts of a layer, which are those of a form, add to its `weight` [out, in] or [out, in, kh, kw].

    `scale` is alpha by rank. Of DoRA by LyCORIS (`dora_scale` [1, in]), which scales what each input gives, the
    difference to this very weight is taken, so that a strength below 1 goes a part of the way, as A1111 has it.
    Raises `ValueError` for shapes that do not fit.
    """
    shape = tuple(weight.shape)
    if "down" in parts:
        product = _lora(parts, shape)
    elif "hada_w1_a" in parts:
        product = _loha(parts, shape)
    else:
        product = _lokr(parts, shape)
    product = _Product(product.up * scale, product.down)
    if (stretched := parts.get("dora_scale")) is not None and _is_of_inputs(stretched, shape):
        product = _smaller(_stretched(product.whole, stretched, weight))
        return Factors(product.down, product.up)
    return Factors(product.down, product.up, _magnitude(parts, shape))


def _lora(parts: Parts, shape: Sequence[int]) -> _Product:
    up = _as("up", parts["up"], (shape[0], parts["down"].shape[0]))
    if "lora_mid" in parts:
        mid = parts["lora_mid"]
        inner = _as("down", parts["down"], (parts["down"].shape[0], shape[1]))
        _check("lora_mid", mid, (up.shape[1], len(inner), *shape[2:]))
        return _Product(up, torch.einsum("mn...,ni->mi...", mid, inner))
    return _Product(up, _as("down", parts["down"], (up.shape[1], *shape[1:])))


def _loha(parts: Parts, shape: Sequence[int]) -> _Product:
    first, second = (_half(parts, number, shape) for number in "12")
    if first.rank * second.rank >= first.most:
        return _smaller(first.whole * second.whole)
    rank = first.rank * second.rank
    up = (first.up[:, :, None] * second.up[:, None, :]).reshape(-1, rank)
    down = (first.down[:, None] * second.down[None]).reshape(rank, *shape[1:])
    return _Product(up, down)


def _half(parts: Parts, number: str, shape: Sequence[int]) -> _Product:
    called = f"hada_w{number}_a", f"hada_w{number}_b"
    a, b = (parts[name] for name in called)
    if (core := parts.get(f"hada_t{number}")) is None:
        rank = b.shape[0]
        return _Product(_as(called[0], a, (shape[0], rank)), _as(called[1], b, (rank, *shape[1:])))
    _check(called[0], a, (a.shape[0], shape[0]))
    _check(called[1], b, (b.shape[0], shape[1]))
    _check(f"hada_t{number}", core, (len(a), len(b), *shape[2:]))
    return _Product(a.T, torch.einsum("ij...,jn->in...", core, b))


def _lokr(parts: Parts, shape: Sequence[int]) -> _Product:
    first = _first(parts)
    rows, columns = len(first.up), math.prod(first.down.shape[1:])
    if shape[0] % rows or shape[1] % columns:
        part = "lokr_w1" if "lokr_w1" in parts else "lokr_w1_a"
        raise Unfit(part, f"is {rows}×{columns}, by which {shape[0]}×{shape[1]} cannot be parted")
    second = _second(parts, (shape[0] // rows, shape[1] // columns, *shape[2:]))
    rank = first.rank * second.rank
    if rank >= min(shape[0], math.prod(shape[1:])):
        return _smaller(_kron(first.whole, second.whole))
    return _Product(_kron(first.up, second.up), _kron(first.down, second.down))


def _first(parts: Parts) -> _Product:
    if "lokr_w1" in parts:
        return _smaller(_matrix("lokr_w1", parts["lokr_w1"]))
    a, b = _matrix("lokr_w1_a", parts["lokr_w1_a"]), _matrix("lokr_w1_b", parts["lokr_w1_b"])
    _check("lokr_w1_b", b, (a.shape[1], b.shape[1]))
    product = _Product(a, b)
    return product if product.rank <= product.most else _smaller(product.whole)


def _second(parts: Parts, shape: Sequence[int]) -> _Product:
    if "lokr_w2" in parts:
        return _smaller(_as("lokr_w2", parts["lokr_w2"], shape))
    a, b = parts["lokr_w2_a"], parts["lokr_w2_b"]
    if (core := parts.get("lokr_t2")) is not None:
        _check("lokr_w2_a", a, (a.shape[0], shape[0]))
        _check("lokr_w2_b", b, (b.shape[0], shape[1]))
        _check("lokr_t2", core, (len(a), len(b), *shape[2:]))
        product = _Product(a.T, torch.einsum("ij...,jn->in...", core, b))
    else:
        rank = b.shape[0]
        product = _Product(_as("lokr_w2_a", a, (shape[0], rank)), _as("lokr_w2_b", b, (rank, *shape[1:])))
    return product if product.rank <= product.most else _smaller(product.whole)


def _kron(first: Tensor, second: Tensor) -> Tensor:
    """Kronecker's product of a matrix [a, b] and [c, d, …]: [a·c, b·d, …]."""
    rest = second.shape[2:]
    spread = first.reshape(first.shape[0], 1, first.shape[1], 1, *(1 for _ in rest))
    product = spread * second[None, :, None]
    return product.reshape(first.shape[0] * second.shape[0], first.shape[1] * second.shape[1], *rest)


def _smaller(whole: Tensor) -> _Product:
    """A matrix [rows, *columns] as itself and an identity, of whichever is fewer."""
    rows, columns = whole.shape[0], math.prod(whole.shape[1:])
    identity = torch.eye(min(rows, columns), device=whole.device)
    if rows <= columns:
        return _Product(identity, whole)
    return _Product(whole.flatten(1), identity.reshape(columns, *whole.shape[1:]))


def _is_of_inputs(magnitude: Tensor, shape: Sequence[int]) -> bool:
    ones = (1,) * len(shape[2:])
    return tuple(magnitude.shape) == (1, shape[1], *ones) != (shape[0], 1, *ones)


def _stretched(added: Tensor, magnitude: Tensor, weight: Tensor) -> Tensor:
    """What is to be added to a weight so that the sum of it and `added` has these norms, for each input."""
    own = weight.detach().to(added)
    whole = own + added
    norms = whole.transpose(0, 1).flatten(1).norm(dim=1).reshape(magnitude.shape)
    stretched: Tensor = whole * (magnitude / (norms + torch.finfo(torch.float32).eps)) - own
    return stretched


def _magnitude(parts: Parts, shape: Sequence[int]) -> Tensor | None:
    """The norms [out] of DoRA."""
    given = [part for part in _MAGNITUDES if part in parts]
    if len(given) > 1:
        raise ValueError(f"it has both {given[0]} and {given[1]}")
    if not given:
        return None
    magnitude = parts[given[0]]
    if magnitude.numel() != shape[0] or max(magnitude.shape, default=0) != shape[0]:
        raise Unfit(given[0], f"has the shape {tuple(magnitude.shape)}, and the layer gives {shape[0]}")
    return magnitude.flatten()


def _matrix(part: str, tensor: Tensor) -> Tensor:
    if tensor.ndim < 2 or tensor.numel() != tensor.shape[0] * tensor.shape[1]:
        raise ValueError(f"{part} has the shape {tuple(tensor.shape)}")
    return tensor.flatten(1)


def _as(part: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor in a shape that it has, or has but for sides of one, or for the sides of a kernel put together."""
    given = tuple(tensor.shape)
    flat = (shape[0], math.prod(shape[1:]))
    if _bare(given) not in (_bare(shape), _bare(flat)) or given[:1] != tuple(shape[:1]):
        raise Unfit(part, f"has the shape {given}, where the layer has {tuple(shape)}")
    return tensor.reshape(*shape)


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape of at least two sides without further sides of one."""
    kept = list(shape)
    while len(kept) > 2 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _check(part: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise Unfit(part, f"has the shape {tuple(tensor.shape)}, where the layer has {tuple(shape)}")

"""What a job's adapters add to the layers of one model, on its device; and laid out so that rows can be gathered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from farm.errors import InvalidInput
from worker.diffusion.adapters import Adapter, Factors
from worker.diffusion.adding import Batched, add

_MOST_SMALL, _LARGE_STRIDE = 32, 32


def padded_rank(rank: int) -> int:
    """The rank that factors are padded to with zeros: a power of two from 4 to 32, or a multiple of 32."""
    if rank <= _MOST_SMALL:
        return max(4, 1 << (rank - 1).bit_length())
    return -(-rank // _LARGE_STRIDE) * _LARGE_STRIDE


@dataclass(frozen=True, eq=False)
class Added:
    """What is added to one layer's output for one job: of `down` [rank, in] or [rank, in, kh, kw], `up` [out, rank],
    and `gain` [out], a part of the output without its bias."""

    down: Tensor
    up: Tensor
    gain: Tensor | None = None

    def to_linear(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The output `y` of a linear layer that was given `x`, both [..., width], with what is added."""
        gain = None if self.gain is None else self.gain[None]
        batched = Batched(self.down.T[None], self.up.T[None], gain)
        which = torch.zeros(1, dtype=torch.long, device=x.device)
        add(layer, x.view(1, -1, x.shape[-1]), y.view(1, -1, y.shape[-1]), which, batched)
        return y


def fitted(adapter: Adapter, path: str, factors: Factors, layer: nn.Module | None) -> Added:
    """The factors of one layer, where that computes and as it computes. Raises `InvalidInput` if they do not fit it.

    Where the sum is scaled to a magnitude, each output of the layer is, without its bias, and so is what is added.
    """
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        raise _misfit(adapter, path, "has no such layer")
    weight = layer.weight
    if not _fit(factors, weight) or not is_simple(layer):
        raise _misfit(adapter, path, f"has one of {list(weight.shape)}", factors)
    down, up = (tensor.to(weight.device, torch.float32) for tensor in (factors.down, factors.up))
    down, up = down.reshape(len(down), *weight.shape[1:]), up.flatten(1)
    gain = None
    if factors.magnitude is not None:
        sums = weight.float().flatten(1) + up @ down.flatten(1)
        scale = factors.magnitude.to(sums).flatten() / sums.norm(dim=1)
        up, gain = scale[:, None] * up, (scale - 1).to(weight.dtype)
    return Added(down.to(weight.dtype), up.to(weight.dtype), gain)


def is_simple(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether it is such a layer as all of Stable Diffusion's are, alike in both directions and with one group."""
    if isinstance(layer, nn.Linear):
        return True
    alike = all(len(set(both)) == 1 for both in (layer.stride, layer.padding))
    return alike and layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"


def _fit(factors: Factors, weight: Tensor) -> bool:
    outputs, rank = len(weight), len(factors.down)
    fit = factors.up.flatten(1).shape == (outputs, rank) and factors.down.numel() == rank * weight[0].numel()
    return fit and (factors.magnitude is None or factors.magnitude.numel() == outputs)


def _misfit(adapter: Adapter, path: str, what: str, factors: Factors | None = None) -> InvalidInput:
    by = f" by factors of {list(factors.up.shape)} and {list(factors.down.shape)}" if factors else ""
    return InvalidInput(
        f"the adapter '{adapter.name}' changes {path}{by}, but the model {what}", hint="it was made for another model"
    )


def summed(parts: Sequence[tuple[Added, float]]) -> Added:
    """What several adapters add to one layer, each so strongly: side by side along the rank."""
    gains = [strength * added.gain for added, strength in parts if added.gain is not None]
    return Added(
        torch.cat([added.down for added, _ in parts]),
        torch.cat([strength * added.up for added, strength in parts], dim=1),
        torch.stack(gains).sum(dim=0) if gains else None,
    )


@dataclass(frozen=True)
class Kind:
    """Which layers a forward adds to: those up to a level; and whether any of them gains.

    Files differ in the layers that they change. A forward adds to all layers of a level, be it zero, so that few kinds
    of forwards have to be recorded.
    """

    level: int
    has_gains: bool

    @classmethod
    def of_all(cls, kinds: Collection[Kind]) -> Kind:
        """That of a forward whose rows are of these."""
        return cls(max(kind.level for kind in kinds), any(kind.has_gains for kind in kinds))


@dataclass(frozen=True, eq=False)
class OnDevice:
    """An adapter's factors at full strength where a UNet computes, by the paths of layers."""

    layers: Mapping[str, Added]


@dataclass(frozen=True, eq=False)
class Additions:
    """What the adapters of a job add to a UNet, each so strongly. Compared by identity.

    `ranks` are of all layers that forwards may add to, in their order, 0 where nothing is added. Without a `kind` they
    add nothing: what the adapters change is computed once a job.
    """

    parts: tuple[tuple[OnDevice, float], ...]
    ranks: tuple[int, ...]
    kind: Kind | None
    _packed: list[tuple[Layout, Packed]] = field(default_factory=list, repr=False)

    def of(self, path: str) -> Added | None:
        """What is added to one layer's output."""
        found = [(placed.layers[path], strength) for placed, strength in self.parts if path in placed.layers]
        return summed(found) if found else None

    def packed(self, layout: Layout) -> Packed:
        """All of it in a layout. The latest is kept."""
        if not self._packed or self._packed[0][0] is not layout:
            self._packed[:] = [(layout, layout.pack(self))]
        return self._packed[0][1]


class Packed(NamedTuple):
    """The numbers of one job in a layout: all but those of the larger convolutions' `down`, and these by themselves."""

    flat: Tensor
    kernels: tuple[Tensor, ...]


@dataclass(frozen=True)
class Layer:
    """One that is added to: how many outputs it has, and the shape of what each is made of, (in,) or (in, kh, kw)."""

    path: str
    outputs: int
    inner: tuple[int, ...]
    is_pointwise: bool
    """Whether it looks at one place at a time. What is done for other convolutions needs its numbers side by side."""

    @classmethod
    def of(cls, path: str, layer: nn.Linear | nn.Conv2d) -> Layer:
        outputs, *inner = layer.weight.shape
        is_pointwise = isinstance(layer, nn.Linear) or (
            set(layer.kernel_size) == set(layer.stride) == {1} and set(layer.padding) == {0}
        )
        return cls(path, outputs, tuple(inner), is_pointwise)

    @property
    def is_linear(self) -> bool:
        return len(self.inner) == 1

    @property
    def numbers(self) -> int:
        """Of `down`, for each of the rank."""
        return torch.Size(self.inner).numel()


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the factors of a kind's layers lie in one run of numbers, each layer's at a rank. Rows of one layout are
    gathered by one copy, whatever layers each job's adapters have: those that it lacks are zeros."""

    kind: Kind
    layers: Mapping[Layer, int]
    """And their ranks."""
    device: torch.device
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes of one row."""
        each = (rank * (layer.numbers + layer.outputs) + self._gains(layer) for layer, rank in self.layers.items())
        return self.dtype.itemsize * sum(each)

    def pack(self, additions: Additions) -> Packed:
        """What a job adds, in this layout, padded with zeros."""
        flat = torch.zeros(self._numbers, device=self.device, dtype=self.dtype)
        kernels = self._no_kernels()
        for layer, slot in zip(self.layers, self._read(flat[None], kernels), strict=True):
            added = additions.of(layer.path)
            if added is None:
                continue
            rank = len(added.down)
            if layer.is_linear:
                slot.down[0, :, :rank].copy_(added.down.T)
                slot.up[0, :rank].copy_(added.up.T)
            else:
                down = slot.down[0] if layer.is_pointwise else slot.down
                down[:rank].copy_(added.down.view_as(down[:rank]))
                slot.up[0, :, :rank].copy_(added.up)
            if added.gain is not None and slot.gain is not None:
                slot.gain[0].copy_(added.gain)
        return Packed(flat, kernels)

    def gather(self, rows: Sequence[Additions]) -> dict[str, Batched]:
        """What is added to each layer, by its path, for some rows."""
        packed = [row.packed(self) for row in rows]
        flat = torch.stack([row.flat for row in packed])
        return self.read(flat, tuple(map(torch.cat, zip(*(row.kernels for row in packed), strict=True))))

    def room(self, rows: int) -> Packed:
        """Zeros for so many rows, where what is packed of each can be copied to: `flat` [N, numbers], `kernels`
        [N·rank, in, kh, kw]."""
        flat = torch.zeros((rows, self._numbers), device=self.device, dtype=self.dtype)
        return Packed(flat, tuple(kernel.repeat(rows, 1, 1, 1) for kernel in self._no_kernels()))

    def read(self, flat: Tensor, kernels: tuple[Tensor, ...]) -> dict[str, Batched]:
        """What is packed of some rows, by the paths of layers."""
        return {layer.path: one for layer, one in zip(self.layers, self._read(flat, kernels), strict=True)}

    def _read(self, flat: Tensor, kernels: tuple[Tensor, ...]) -> list[Batched]:
        """Views of what was laid out, for some rows [N, numbers]."""
        begin, remaining = 0, iter(kernels)

        def take(*shape: int) -> Tensor:
            nonlocal begin
            size = torch.Size(shape).numel()
            begin += size
            taken: Tensor = flat[:, begin - size : begin].unflatten(1, shape)
            return taken

        found: list[Batched] = []
        for layer, rank in self.layers.items():
            if layer.is_linear:
                down, up = take(*layer.inner, rank), take(rank, layer.outputs)
            else:
                down = take(rank, layer.numbers) if layer.is_pointwise else next(remaining)
                up = take(layer.outputs, rank)
            found.append(Batched(down, up, take(layer.outputs) if self.kind.has_gains else None))
        return found

    @property
    def _numbers(self) -> int:
        """Of one row, all but those of the larger convolutions' `down`."""
        return sum(
            rank * (layer.outputs + (layer.numbers if layer.is_pointwise else 0)) + self._gains(layer)
            for layer, rank in self.layers.items()
        )

    def _no_kernels(self) -> tuple[Tensor, ...]:
        """Zeros for the others of one row."""
        return tuple(
            torch.zeros((rank, *layer.inner), device=self.device, dtype=self.dtype)
            for layer, rank in self.layers.items()
            if not layer.is_pointwise
        )

    def _gains(self, layer: Layer) -> int:
        return layer.outputs if self.kind.has_gains else 0

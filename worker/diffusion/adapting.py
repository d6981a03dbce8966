"""The adapters that jobs use of one UNet: their factors on its device, and its forwards with those of each row.

Weights are neither merged nor swapped: every layer's output gets what the rows' own adapters add to it. So jobs of
unlike adapters, and jobs without, share a forward.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

import torch
from torch import Tensor, nn

from worker.diffusion.adapters import Adapter, Stack, acting_on_unet
from worker.diffusion.adding import Batched, add
from worker.diffusion.additions import Added, Additions, Kind, Layer, Layout, OnDevice, fitted, is_simple, padded_rank
from worker.diffusion.cross_attention import CrossAttentionCache

_LEVELS = ((".attn1.", ".attn2."), (".attentions.",), ("",))
"""What the paths of layers have in them: attention's own, all of its blocks, and every layer."""
_LEAST = padded_rank(1)
_MOST_LAYOUTS = 64
_KEPT = 2
"""Batches whose factors stay gathered: two groups of jobs may take turns."""

_Rows = tuple[Layout, tuple[ref[Additions] | None, ...]]


@dataclass(frozen=True, eq=False)
class Gathered:
    """What is added for a batch of rows: to the rows `which` [M] alone, by the paths of layers."""

    kind: Kind
    which: Tensor
    layers: Mapping[str, Batched]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is in it, as `Adapting.from_tensors` takes it."""
        each = ((one.down, one.up, *(() if one.gain is None else (one.gain,))) for one in self.layers.values())
        return self.which, *(tensor for tensors in each for tensor in tensors)


_UNKNOWN: ref[Additions] = ref(Additions((), (), None))
"""Of one that is gone: whatever comes next is another."""


class Slots:
    """Room for what is added for some rows, all in one layout, at addresses that stay: for CUDA graphs."""

    def __init__(self, layout: Layout, rows: int) -> None:
        self._layout = layout
        self._room = layout.room(rows)
        self._which = torch.arange(rows, device=layout.device)
        self._held: list[ref[Additions] | None] = [None] * rows

    def put(self, rows: Sequence[Additions | None]) -> Gathered:
        """What is added for these rows, and zero for those without adapters. Only what changed since is copied."""
        flat, kernels = self._room
        for index, row in enumerate(rows):
            adding = row if row is not None and row.kind is not None else None
            held = self._held[index]
            if adding is not (held and held()) or (adding is None and held is not None):
                self._write(index, adding)
        each = (kernel[: len(rows) * len(kernel) // len(self._held)] for kernel in kernels)
        layers = self._layout.read(flat[: len(rows)], tuple(each))
        return Gathered(self._layout.kind, self._which[: len(rows)], layers)

    def _write(self, index: int, row: Additions | None) -> None:
        flat, kernels = self._room
        packed = row.packed(self._layout) if row else None  # for which there may be no room
        self._held[index] = _UNKNOWN
        flat[index].copy_(packed.flat) if packed else flat[index].zero_()
        for number, kernel in enumerate(kernels):
            own = kernel.unflatten(0, (len(self._held), -1))[index]
            own.copy_(packed.kernels[number]) if packed else own.zero_()
        self._held[index] = ref(row) if row else None


class Adapting:
    """Adapters of one UNet. Not safe for use from several threads at once.

    An adapter's factors are on the device for as long as a job has them, and once, however many jobs that are.
    """

    def __init__(self, unet: nn.Module, cross_attention: CrossAttentionCache) -> None:
        """The layers that `cross_attention` computes once a job are not added to in forwards."""
        self._cached: dict[str, nn.Module] = {one.path: one.projection for one in cross_attention.projections}
        self._modules: dict[str, nn.Linear | nn.Conv2d] = {
            path: module
            for path, module in unet.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d)) and is_simple(module) and path not in self._cached
        }
        self._layouts: dict[tuple[Kind, tuple[int, ...]], Layout] = {}
        self._placed: WeakKeyDictionary[Adapter, ref[OnDevice]] = WeakKeyDictionary()
        self._additions: WeakValueDictionary[Hashable, Additions] = WeakValueDictionary()
        self._latest: deque[dict[_Rows, Gathered | None]] = deque(maxlen=_KEPT)
        self._now: Gathered | None = None

    def of(self, stack: Stack) -> Additions | None:
        """What the adapters of a job add, shared with other jobs of the same; None if they leave the UNet as it is.

        Raises `InvalidInput` for adapters that were made for another model.
        """
        acting = acting_on_unet(stack)
        if not acting:
            return None
        known = self._additions.get(acting)
        if known is None:
            known = self._additions[acting] = self._made(stack)
        return known

    def kind(self, stack: Stack) -> Kind | None:
        """That of what a stack adds to the layers in forwards; None if it adds nothing to them. From any thread."""
        acting = [use.adapter.unet for use in stack if use.unet]
        paths = {path for layers in acting for path in layers if path in self._modules}
        has_gains = any(factors.magnitude is not None for layers in acting for factors in layers.values())
        return Kind(max(map(_level, paths)), has_gains) if paths else None

    def ranks(self, stack: Stack) -> tuple[int, ...]:
        """Of what a stack adds to the layers in forwards, padded, in their order; 0 where it adds nothing."""
        ranks: Counter[str] = Counter()
        for use in stack:
            if use.unet:
                ranks.update({path: len(factors.down) for path, factors in use.adapter.unet.items()})
        return tuple(padded_rank(ranks[path]) if path in ranks else 0 for path in self._modules)

    def layout(self, rows: Sequence[Additions | None]) -> Layout | None:
        """That of a batch whose rows have these, each layer at the largest of their ranks; None if nothing is added to
        any."""
        adding = {row: row.kind for row in rows if row is not None and row.kind is not None}
        if not adding:
            return None
        return self._layout(
            Kind.of_all(adding.values()), tuple(map(max, zip(*(row.ranks for row in adding), strict=True)))
        )

    def gathered(self, parts: Sequence[Sequence[Additions | None]], layout: Layout) -> tuple[Gathered | None, ...]:
        """What is added for the rows of a batch of this layout, which are computed in parts; None where nothing is.

        That of the latest batches is kept until one of their jobs ends: a batch mostly has many steps.
        """
        known = {key: gathered for batch in self._latest for key, gathered in batch.items()}
        batch: dict[_Rows, Gathered | None] = {}
        for part in parts:
            key = layout, tuple(None if row is None else ref(row) for row in part)
            if key not in batch:
                batch[self._watched(key)] = known[key] if key in known else self._gather(part, layout)
        if batch in self._latest:
            self._latest.remove(batch)
        self._latest.append(batch)
        return tuple(batch[layout, tuple(None if row is None else ref(row) for row in part)] for part in parts)

    def bytes_of_row(self, rows: Sequence[Additions | None]) -> int:
        """What the factors of one row take in a forward of rows that have these."""
        layout = self.layout(rows)
        return 0 if layout is None else layout.size

    def from_tensors(self, kind: Kind, tensors: Sequence[Tensor]) -> Gathered:
        """What `Gathered.tensors` was made of."""
        each = 3 if kind.has_gains else 2
        which, *rest = tensors
        batched = (Batched(*rest[begin : begin + each]) for begin in range(0, len(rest), each))
        paths = [layer.path for layer in self._layers(kind.level)]
        return Gathered(kind, which, dict(zip(paths, batched, strict=True)))

    def example(self, kind: Kind, rows: int, which: Collection[int], *, rank: int) -> Gathered | None:
        """Some numbers of a kind, for rows of which some have adapters."""
        ranks, numbers = (padded_rank(rank),) * len(self._modules), torch.Generator().manual_seed(0)
        layout = self._layout(kind, ranks)

        def some(*shape: int, divisor: float) -> Tensor:
            return torch.randn(shape, generator=numbers).to(layout.device, layout.dtype) / divisor

        placed = OnDevice(
            {
                layer.path: Added(
                    some(rank, *layer.inner, divisor=layer.numbers**0.5),
                    some(layer.outputs, rank, divisor=4 * rank**0.5),
                    some(layer.outputs, divisor=4) if kind.has_gains else None,
                )
                for layer in layout.layers
            }
        )
        each = [Additions(((placed, strength),), ranks, kind) for strength in (1.0, -0.5)]
        return self._gather([each[row % 2] if row in which else None for row in range(rows)], layout)

    @contextmanager
    def adding(self, gathered: Gathered | None) -> Iterator[None]:
        """The UNet's own forwards in the block add this. What was added around the block is not: a turn may be taken
        in the midst of another's forward."""
        before, self._now = self._now, gathered
        hooks: list[Any] = []
        if gathered is not None:
            hooks = [
                self._modules[path].register_forward_hook(partial(self._add, gathered, batched))
                for path, batched in gathered.layers.items()
            ]
        try:
            yield
        finally:
            self._now = before
            for hook in hooks:
                hook.remove()

    def _add(self, gathered: Gathered, batched: Batched, layer: nn.Module, given: tuple[Tensor], out: Tensor) -> Tensor:
        return add(layer, given[0], out, gathered.which, batched) if self._now is gathered else out

    def _made(self, stack: Stack) -> Additions:
        parts = tuple((self._on_device(use.adapter), use.unet) for use in stack if use.unet)
        return Additions(parts, self.ranks(stack), self.kind(stack))

    def _on_device(self, adapter: Adapter) -> OnDevice:
        known = self._placed.get(adapter)
        placed = known() if known else None
        if placed is None:
            layers = {path: self._modules.get(path) or self._cached.get(path) for path in adapter.unet}
            placed = OnDevice({path: fitted(adapter, path, adapter.unet[path], layers[path]) for path in layers})
            self._placed[adapter] = ref(placed)
        return placed

    def _watched(self, key: _Rows) -> _Rows:
        """The same, such that nothing is kept gathered once one of them is gone."""
        latest, (layout, rows) = self._latest, key
        gone = (None if row is None else row() for row in rows)
        return layout, tuple(None if row is None else ref(row, lambda _: latest.clear()) for row in gone)

    def _gather(self, rows: Sequence[Additions | None], layout: Layout) -> Gathered | None:
        added = {index: row for index, row in enumerate(rows) if row is not None and row.kind is not None}
        if not added:
            return None
        which = torch.tensor([*added], device=layout.device)
        return Gathered(layout.kind, which, layout.gather([*added.values()]))

    def _layout(self, kind: Kind, ranks: tuple[int, ...]) -> Layout:
        if (kind, ranks) not in self._layouts:
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            weight = next(iter(self._modules.values())).weight
            at = dict(zip(self._modules, ranks, strict=True))
            layers = {layer: max(_LEAST, at[layer.path]) for layer in self._layers(kind.level)}
            self._layouts[kind, ranks] = Layout(kind, layers, weight.device, weight.dtype)
        return self._layouts[kind, ranks]

    def _layers(self, level: int) -> tuple[Layer, ...]:
        return tuple(Layer.of(path, module) for path, module in self._modules.items() if _level(path) <= level)


def _level(path: str) -> int:
    return next(level for level, parts in enumerate(_LEVELS) if any(part in path for part in parts))
